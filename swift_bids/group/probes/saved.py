"""Probes of the mean embedding, fitted to all participants, to predict others.

A probe is linear: `(features - mean) / scale` times coefficients, plus an intercept. For a number,
the result is the prediction; for classes, it is a score for each class, and the largest one wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sklearn.preprocessing import StandardScaler

from swift_bids.base.errors import UsageError
from swift_bids.base.files import read_json, write_atomically, write_json
from swift_bids.group.columns import Target
from swift_bids.group.probes.predict import scores_of_classes
from swift_bids.group.probes.ridge import fit_best_ridges

#: Name of the file with the head of a fine-tuned network, beside its weights.
HEAD = "head.safetensors"
#: What a file contains for each target.
_PARTS = ("mean", "scale", "coefficients", "intercept")


@dataclass(frozen=True)
class SavedProbe:
    """A fitted probe.

    Attributes
    ----------
    target, classes
        Name of the column; labels of its classes, empty for numbers.
    n_participants
        Participants to whom it was fitted.
    mean, scale
        (feature,) standardisation of the features.
    coefficients, intercept
        (output, feature) and (output,): one output for numbers, one for each class.
    """

    target: str
    classes: tuple[str, ...]
    n_participants: int
    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the outputs, (participant, output), for features (participant, feature)."""
        return (features - self.mean) / self.scale @ self.coefficients.T + self.intercept


def fit_to_all(target: Target, features: np.ndarray, groups: np.ndarray | None) -> SavedProbe:
    """Fit a probe of the mean embedding to all participants with a value.

    Parameters
    ----------
    features
        (participant, feature).
    groups
        As for `swift_bids.group.probes.probe.fit_probe`; they decide, with the participants left
        out in turn, the strength of the penalty.
    """
    kept = target.known if groups is None else target.known & (groups >= 0)
    x, y = features[kept].astype(np.float64), target.values[kept]
    groups = None if groups is None or len(np.unique(groups[kept])) < 2 else groups[kept]
    scaler = StandardScaler().fit(x)
    # The outputs at 0 and at each unit vector are the intercept and the coefficients.
    units = np.vstack([np.zeros(x.shape[1]), np.eye(x.shape[1])])
    versions = [(scaler.transform(x), units)]
    if target.classes:
        outputs = scores_of_classes(versions, y[None], groups, len(target.classes))[0][0]
    else:
        outputs = fit_best_ridges(versions, y[:, None], groups).predicted
    return SavedProbe(
        target.name,
        target.classes,
        len(y),
        scaler.mean_,
        scaler.scale_,
        (outputs[1:] - outputs[0]).T,
        outputs[0],
    )


def write_probes(file: Path, probes: list[SavedProbe], about: dict[str, object]) -> None:
    """Write probes to a `.safetensors` file, and what they are to the `.json` beside it."""
    tensors = {
        f"{probe.target}.{part}": np.ascontiguousarray(getattr(probe, part))
        for probe in probes
        for part in _PARTS
    }
    content = save(tensors)
    write_atomically(file, lambda path: path.write_bytes(content))
    described = {
        probe.target: {"Classes": list(probe.classes), "Participants": probe.n_participants}
        for probe in probes
    }
    write_json(file.with_suffix(".json"), about | {"Probes": described})


def read_probes(file: Path) -> tuple[list[SavedProbe], dict[str, object]]:
    """Read what `write_probes` wrote: the probes, and the content of the `.json` file.

    Raises
    ------
    UsageError
        A file is missing or damaged.
    """
    try:
        tensors, about = load(file.read_bytes()), read_json(file.with_suffix(".json"))
        probes = [
            SavedProbe(
                target,
                tuple(of_target["Classes"]),
                of_target["Participants"],
                *(tensors[f"{target}.{part}"] for part in _PARTS),
            )
            for target, of_target in about["Probes"].items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UsageError(
            f"{file}: cannot be read with its .json file ({error!r}); run the group level again"
        ) from error
    return probes, about
