"""Software, network, settings and input files -> the provenance in every sidecar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift_bids import __version__
from swift_bids.base.backbones import BACKBONES
from swift_bids.geometry.frames import space_note
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.run import Run
from swift_bids.inputs.transforms import FslWarp, GridWarp
from swift_bids.network.weights import Weights
from swift_bids.settings import EmbeddingSettings
from swift_bids.steps.normalise import Normalisation

#: Name of the raw dataset in BIDS URIs.
RAW_DATASET = "raw"
BIDS_VERSION = "1.10.0"
CODE_URL = "https://github.com/swift-bids/swift_bids"
#: Software, in the form that BIDS asks for in sidecars and dataset_description.json.
GENERATED_BY = {"Name": "swift_bids", "Version": __version__, "CodeURL": CODE_URL}
#: Name of the published container image, without its tag.
IMAGE = "swiftbids/swift_bids"


@dataclass(frozen=True)
class Provenance:
    """Settings, weights and device behind the outputs of a run; part of every sidecar.

    Attributes
    ----------
    settings
        How the run was turned into an embedding.
    weights
        Weights of the network.
    device
        `cpu` or `cuda`: the last digits of float32 results differ between them.
    dataset_root, raw_root
        Derivatives and raw dataset, to which BIDS URIs are relative; `raw_root` is None if the app
        does not know it.
    input_type
        Layout of the derivatives; their name in BIDS URIs, `bids:fmriprep:sub-01/...`.
    kernel
        What ran the network: `torch`, or the instruction set of the compiled kernel; the last
        digits differ, too.
    """

    settings: EmbeddingSettings
    weights: Weights
    device: str
    dataset_root: str
    kernel: str = "torch"
    raw_root: str | None = None
    input_type: str = "fmriprep"

    @classmethod
    def of_call(
        cls, settings: EmbeddingSettings, weights: Weights, device: str, dataset: Dataset
    ) -> Provenance:
        """Build the `Provenance` of a call; what runs the network is not known yet."""
        return cls(
            settings,
            weights,
            device,
            str(dataset.root),
            raw_root=str(dataset.raw) if dataset.raw else None,
            input_type=dataset.input_type,
        )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Provenance:
        """Build a `Provenance` from the output of `dataclasses.asdict`."""
        settings, weights = content["settings"], content["weights"]
        return cls(
            EmbeddingSettings(**settings),
            Weights(**weights),
            content["device"],
            content["dataset_root"],
            content["kernel"],
            content["raw_root"],
            content["input_type"],
        )


def bids_uri(path: str, provenance: Provenance) -> str:
    """BIDS URI of an input file, `bids:fmriprep:<path>` or `bids:raw:<path>`; the file's own URI if
    it is in no dataset, as the one of `--template-xfm`."""
    roots = {provenance.input_type: provenance.dataset_root, RAW_DATASET: provenance.raw_root}
    # one dataset may lie in the other
    inside = [(len(r), n, r) for n, r in roots.items() if r and Path(path).is_relative_to(r)]
    if not inside:
        return Path(path).as_uri()
    _, name, root = max(inside)
    return f"bids:{name}:{Path(path).relative_to(root).as_posix()}"


def source_uris(run: Run, provenance: Provenance) -> list[str]:
    """BIDS URIs of the input files of a run."""
    return [bids_uri(file, provenance) for file in run.files]


def run_metadata(run: Run, provenance: Provenance, normalisation: Normalisation) -> dict[str, Any]:
    """The part that all sidecars of a run share: inputs, software, network and settings."""
    settings = settings_metadata(provenance)
    space = run.space_of_input
    of_run = {
        "Space": space,
        **({"SpaceNote": note} if (note := space_note(space)) else {}),
        "ResampledToFSL2mm": normalisation.interpolated,
        "SpatialInterpolation": "none",
        **resampling_metadata(run),
        "DummyScansRemoved": run.first_volume,
        "ModelRepetitionTime": run.model_tr,
        "TemporalInterpolation": run.series.interpolation,
    }
    return {
        "Sources": source_uris(run, provenance),
        **settings,
        "Preprocessing": of_run | settings["Preprocessing"],
        "RepetitionTime": run.repetition_time,
    }


def resampling_metadata(run: Run) -> dict[str, Any]:
    """What cleaned and masked a run, and how the app resampled it, if it did."""
    transforms = run.transforms
    cleaned = {"Denoising": run.denoising, "BrainMask": run.mask.kind}
    if run.mask.pattern is not None:
        cleaned["BrainMaskPath"] = run.mask.pattern
    if run.mask.steps or (run.mask.on_grid_of_run and transforms is not None):
        cleaned["BrainMaskCarriedBy"] = run.mask.rule
    if transforms is None:
        return cleaned
    splines = "cubic B-spline" if transforms.interpolation == "cubic" else "linear"
    if isinstance(transforms, FslWarp):
        return cleaned | {
            "SpatialInterpolation": f"{splines}, one resampling from the space of the run",
            "WarpedWith": "FNIRT's displacement field",
        }
    if isinstance(transforms, GridWarp) and not transforms.steps:
        return cleaned | {"SpatialInterpolation": splines}
    if isinstance(transforms, GridWarp):
        own = len(transforms.steps) > 1
        return cleaned | {
            "SpatialInterpolation": f"{splines}, one resampling from {run.space}",
            "WarpedWith": "the participant's transforms" if own else Path(transforms.steps[0]).name,
        }
    return cleaned | {
        "SpatialInterpolation": f"{splines}, one resampling from the raw BOLD",
        "HeadMotionCorrected": True,
        "DistortionCorrected": transforms.fieldmap is not None,
        "JacobianModulated": transforms.fieldmap is not None and transforms.fieldmap.jacobian,
        "SliceTimingCorrected": bool(transforms.slice_shifts),
    }


def settings_metadata(provenance: Provenance) -> dict[str, Any]:
    """Software, network and settings of a call, as recorded in the sidecars of all its runs."""
    settings, weights = provenance.settings, provenance.weights
    backbone = BACKBONES[settings.variant]
    return {
        "GeneratedBy": [GENERATED_BY],
        "Model": {
            "Name": backbone.network.title,
            "Variant": settings.variant,
            "Weights": weights.name,
            **({"WeightsRevision": weights.revision} if weights.revision else {}),
            "WeightsSHA256": weights.sha256,
            **({"WeightsKnownAs": weights.known_as} if weights.known_as else {}),
            "RandomWeights": weights.random,
            "Precision": settings.precision,
            "Device": provenance.device,
            "Kernel": provenance.kernel,
        },
        "Preprocessing": {
            "InputType": provenance.input_type,
            "Frame": settings.frame,
            "Normalisation": settings.normalisation,
            "Statistics": settings.statistics,
            "RobustNormalisation": settings.robust_normalisation,
            "DummyScans": settings.dummy_scans,
            "TargetTR": settings.target_tr,
            "FDThreshold": settings.fd_threshold,
            "MaxCensored": settings.max_censored,
            "ChunkVolumes": backbone.network.chunk_volumes,
            "ChunkStride": settings.chunk_stride,
            "Tail": settings.tail,
            "ShortRuns": settings.short_runs,
            **({"NegativeValues": "set to 0"} if backbone.clipped else {}),
            **({"Quantisation": settings.quantisation} if len(backbone.quantisations) > 1 else {}),
        },
    }


def described_runs(runs: Sequence[Run], provenance: Provenance) -> list[tuple[str, dict[str, Any]]]:
    """Name of a run, and the settings for it, for each way in which runs are resampled."""
    described: list[tuple[str, dict[str, Any]]] = []
    known: list[dict[str, Any]] = []
    for run in runs:
        resampling = resampling_metadata(run)
        if resampling not in known:
            known.append(resampling)
            settings = settings_metadata(provenance)
            settings["Preprocessing"] |= resampling
            described.append((run.name, settings))
    return described
