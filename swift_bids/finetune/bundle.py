"""A trained classifier -> a folder in the layout of the Hub bundles, with its head and a card."""

from __future__ import annotations

from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from swift_bids import __version__
from swift_bids.base.backbones import NETWORKS
from swift_bids.base.files import read_json, write_text
from swift_bids.finetune.classifier import Classifier, Task
from swift_bids.finetune.cohort import Cohort
from swift_bids.finetune.settings import FineTuneSettings
from swift_bids.group.kept_runs import matrix_uris
from swift_bids.group.probes.saved import HEAD, write_probes
from swift_bids.network.bundles import write_bundle
from swift_bids.network.known_weights import digests_of
from swift_bids.network.weights import Weights
from swift_bids.outputs.provenance import GENERATED_BY

#: The weights of a bundle; if they exist, the fine-tuning is complete.
WEIGHTS = "model.safetensors"


def write_fine_tuned(
    folder: Path,
    classifier: Classifier,
    task: Task,
    cohort: Cohort,
    weights: Weights,
    config: dict[str, Any],
    origin: dict[str, Any],
    settings: FineTuneSettings,
) -> dict[str, Any]:
    """Write the network and its head; return what every sidecar of the fine-tuning says.

    Parameters
    ----------
    weights, config, origin
        Weights from which the training started, their constructor arguments, and what their
        `config.json` says of their origin.
    """
    about = made_by(cohort, weights, settings)
    # A part of the network that was not trained is still random.
    seed = origin.get("random_weights_seed")
    still_random = seed is not None and settings.training.freeze != "none"
    write_bundle(
        folder,
        config,
        classifier.network.state_dict(),
        fine_tuned_from=weights.name,
        original_sha256=weights.sha256,
        target=settings.target,
        **({"random_weights_seed": seed} if still_random else {}),
    )
    sha256 = digests_of(folder / WEIGHTS).sha256
    kind = cohort.runs.kinds[0] | {
        "weights": f"{folder.name}/{WEIGHTS}",
        "weights_sha256": sha256,
        "random_weights": still_random,
    }
    probe = task.as_probe(classifier, len(cohort.target.values))
    about_head = {"Description": "Head of the fine-tuned network, a probe of its mean embedding"}
    write_probes(folder / HEAD, [probe], about_head | about | {"Embeddings": [kind]})
    return about | {"WeightsSHA256": sha256, "RandomWeights": still_random}


def made_by(cohort: Cohort, weights: Weights, settings: FineTuneSettings) -> dict[str, Any]:
    """Software, starting weights, settings and data, for the sidecars."""
    return {
        "GeneratedBy": [GENERATED_BY],
        "StartingWeights": {
            "Name": weights.name,
            "SHA256": weights.sha256,
            "RandomWeights": weights.random,
        },
        "Embeddings": cohort.runs.kinds,
        "Settings": {
            "target": settings.target,
            "group_by": settings.group_by,
            "folds": settings.folds,
            "device": settings.device,
            **asdict(settings.training),
        },
        "Sources": matrix_uris(settings.output_dir, cohort.runs),
    }


def write_card(
    folder: Path,
    cohort: Cohort,
    scores: pd.DataFrame,
    n_folds: int,
    weights: Weights,
    settings: FineTuneSettings,
    about: dict[str, Any],
) -> None:
    """Write the model card, `README.md`, with the metadata that the Hugging Face Hub reads.

    Parameters
    ----------
    scores, n_folds
        As the table `scores.tsv`, and the number of folds behind it.
    weights
        Weights from which the training started.
    about
        From `write_fine_tuned`.
    """
    template = resources.files("swift_bids").joinpath("data/model_card.md.j2").read_text()
    # Markdown, not HTML
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701
    description = settings.output_dir / "dataset_description.json"
    data_licence = read_json(description).get("License") if description.exists() else None
    card = environment.from_string(template).render(
        version=__version__,
        network=NETWORKS[cohort.runs.label],
        kind=cohort.runs.kinds[0],
        cohort=cohort,
        scores=scores.to_dict("records"),
        weights=weights,
        settings=settings,
        training=settings.training,
        sha256=about["WeightsSHA256"],
        folder=folder.name,
        data_licence=data_licence or "n/a",
        n_folds=n_folds,
        still_random=about["RandomWeights"],
    )
    write_text(folder / "README.md", card)
