"""Results of a run -> its quality metrics (qc.json), and sentences that explain them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from swift_bids.base.backbones import BACKBONES, TimeRule
from swift_bids.geometry.frames import TRAINING_SPACE, space_note
from swift_bids.inputs.run import Run
from swift_bids.inputs.transforms import GridWarp
from swift_bids.outputs.mask_quality import Verdict, mask_verdicts
from swift_bids.outputs.time_quality import chunk_verdicts, motion_verdict, timing_verdict
from swift_bids.outputs.volume_quality import volume_verdicts
from swift_bids.outputs.volumes import describe_faults
from swift_bids.steps.aggregate import Embeddings
from swift_bids.steps.crop import Coverage
from swift_bids.steps.normalise import Normalisation
from swift_bids.steps.volume_signals import Volumes

#: Masked images of a brain are positive and vary by a quarter to a half of their mean. Values
#: beyond these wide limits suggest that the mask contains other tissue, or that the data were
#: demeaned or scaled.
_MIN_MEAN_OVER_STD, _MAX_NEGATIVE = 1.5, 0.01
_Z_RANGE, _MIN_CONTRAST = (-6.0, 6.0), 1.0


def quality(
    embeddings: Embeddings,
    normalisation: Normalisation,
    coverage: Coverage,
    volumes: Volumes,
    run: Run,
) -> dict[str, Any]:
    """Quality metrics of a run, ready for JSON; missing numbers are None."""
    chunks, pooled = embeddings.chunks, embeddings.run.iloc[0]
    used = np.zeros(run.n_volumes, dtype=bool)
    for start, stop in zip(chunks["start"], chunks["stop"]):
        used[start:stop] = True

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        "Coverage": asdict(coverage),
        "Normalised": asdict(normalisation),
        "Volumes": {
            "total": run.n_volumes,
            "dummy": run.first_volume,
            "used": int(used.sum()),
            "unused": int((~used[run.first_volume :]).sum()),
            "series": run.series.length,
            "padded": int(chunks["padded"].sum()),
        },
        "Faults": describe_faults(run, volumes),
        "Chunks": {
            "total": int(pooled["n_chunks"]),
            "included": int(pooled["n_included"]),
            "similarity_min": number(embeddings.similarity.min()),
            "distance_from_run": [number(d) for d in chunks["distance"]],
        },
        "Motion": {
            "confounds": run.confounds is not None or run.raw_transforms is not None,
            "mean_fd": number(chunks["mean_fd"].mean()),
            "max_chunk_fd": number(chunks["mean_fd"].max()),
            "censored": number(chunks["censored"].mean()),
            "not_measured": float(
                np.mean(
                    [
                        volumes.faults.not_measured[start:stop].mean()
                        for start, stop in zip(chunks["start"], chunks["stop"])
                    ]
                )
            ),
        },
        "DiffersFromTraining": {
            "TR": _differs(run.model_tr, BACKBONES[run.variant].time),
            "TemporalInterpolation": run.series.resampled,
            "Space": space_note(run.space_of_input) is not None,
            "Grid": isinstance(run.transforms, GridWarp),
            "Normalisation": normalisation.method != "global",
            "Statistics": normalisation.statistics != "mask"
            or (normalisation.robust and bool(volumes.faults.any.any())),
            "Intensity": _intensity(asdict(normalisation)) is not None,
        },
        "InputWarnings": list(run.warnings),
    }


def _differs(model_tr: float, rule: TimeRule) -> bool:
    distance = round(abs(model_tr - rule.target_tr), 6)
    return distance > 0 and distance >= rule.tolerance


def verdicts_of(qc: Mapping[str, Any]) -> list[Verdict]:
    """Explain the quality metrics of a run in sentences.

    Parameters
    ----------
    qc
        Content of the run's `qc.json`.

    Returns
    -------
    list of (good, sentence)
        `good` is False if the user should look at the run or do something.
    """
    normalised = qc["Normalised"]
    preprocessing = qc["Preprocessing"]
    # version 0.5.0 did not name the mask
    kind = preprocessing.get("BrainMask", "functional")
    verdicts = [*mask_verdicts(qc["Coverage"], kind), timing_verdict(qc)]
    if preprocessing.get("HeadMotionCorrected"):
        verdicts.append((True, _resampling(preprocessing)))
    if warp := preprocessing.get("WarpedWith"):
        how = preprocessing["SpatialInterpolation"].replace(", one resampling", "")
        verdicts.append((True, f"Warped to {TRAINING_SPACE} ({how}) with {warp}."))
    elif normalised["interpolated"] and not preprocessing.get("HeadMotionCorrected"):
        how = preprocessing["SpatialInterpolation"].split(" (")[0]
        verdicts.append((True, f"Resampled ({how}) to the FSL 2 mm grid of the network."))
    if note := space_note(qc["Preprocessing"]["Space"]):
        remedy = (
            f"run fMRIPrep with --output-spaces {TRAINING_SPACE}:res-2, or keep both of its "
            f"transforms in anat/ or give --template-xfm, so that the app can warp the run"
        )
        verdicts.append((False, f"{note}; {remedy}."))
    faults = qc.get("Faults")  # version 0.5.0 did not look for them
    n_empty = len(faults["empty"]) if faults else 0
    if preprocessing.get("NegativeValues") and normalised["negative"] > _MAX_NEGATIVE:
        sentence = (
            f"{normalised['negative']:.0%} of the voxels have a negative mean, but the network "
            f"reads negative values as 0, so their signal is lost."
        )
        verdicts.append((False, sentence))
    verdicts += _signal(normalised, qc["Coverage"]["n_voxels"], qc["Volumes"], n_empty)
    if faults:
        verdicts += volume_verdicts(faults, qc["Volumes"], normalised["robust"])
    verdicts.append(motion_verdict(qc))
    verdicts += chunk_verdicts(qc["Chunks"], qc["Volumes"], preprocessing["ChunkVolumes"])
    return verdicts + [(False, w[0].upper() + w[1:] + ".") for w in qc["InputWarnings"]]


def _resampling(preprocessing: Mapping[str, Any]) -> str:
    steps = {
        "head motion": True,
        "distortion": preprocessing["DistortionCorrected"],
        "slice timing": preprocessing["SliceTimingCorrected"],
    }
    corrected = " and ".join(step for step, done in steps.items() if done)
    missing = " or ".join(step for step, done in steps.items() if not done)
    interpolation = preprocessing["SpatialInterpolation"].split(",")[0]
    return (
        f"Resampled once from the raw BOLD ({interpolation}); corrected for {corrected}"
        f"{missing and f', but not for {missing}'}."
    )


def _intensity(normalised: Mapping[str, Any]) -> str | None:
    """How the intensities differ from those of a masked BOLD image, and what to do; None if not."""
    if normalised["method"] != "global":  # z-scores over time do not keep the intensities
        return None
    ratio = normalised["mean"] / normalised["std"]
    low, _, high = normalised["z_percentiles"]
    if normalised["negative"] > _MAX_NEGATIVE:
        return (
            f"{normalised['negative']:.0%} of the voxels have a negative mean: the data seem to "
            f"have been demeaned or filtered. The network was trained on plain intensities; use "
            f"fMRIPrep's preproc BOLD, not denoised data"
        )
    if high - low < _MIN_CONTRAST:
        return (
            f"the voxels' means hardly differ ({high - low:.2g} standard deviations from the 1st "
            f"to the 99th percentile), as if each had been scaled to the same mean. The training "
            f"data showed the anatomy; use fMRIPrep's preproc BOLD"
        )
    if ratio < _MIN_MEAN_OVER_STD or low < _Z_RANGE[0] or high > _Z_RANGE[1]:
        return (
            f"z-scores of the mean volume span {low:.1f} to {high:.1f} (1st to 99th percentile), "
            f"and its mean is {ratio:.2g} standard deviations. Look at the mosaic for air, skull "
            f"or vessels in the mask, or a strong bias field"
        )
    return None


def _signal(
    normalised: Mapping[str, Any], n_voxels: int, volumes: Mapping[str, int], n_empty: int
) -> list[Verdict]:
    verdicts = []
    if normalised["method"] != "global":
        sentence = "Every voxel was z-scored over time (voxel+global), unlike in the training data."
        verdicts.append((True, sentence))
    if normalised.get("statistics") == "core":
        sentence = (
            "Mean, standard deviation and background were derived from the inner part of the "
            "template's brain (--statistics core), not from the whole mask as in training."
        )
        verdicts.append((True, sentence))
    if difference := _intensity(normalised):
        verdicts.append((False, f"Intensities differ from the training data's: {difference}."))
    tsnr = normalised["tsnr"]
    if normalised["negative"] <= _MAX_NEGATIVE:  # else the mean is no signal
        low = "" if tsnr >= 15 else ", which is low: check the run for artefacts, or exclude it"
        verdicts.append((not low, f"Temporal signal-to-noise ratio {tsnr:.0f} (median){low}."))
    if normalised["n_nonfinite"]:
        verdicts.append(
            (
                False,
                f"{normalised['n_nonfinite']:,} values are NaN or infinite and count as "
                f"background. Find out which step produced them.",
            )
        )
    n_with_data = volumes["total"] - volumes["dummy"] - n_empty
    missing = normalised["n_zero"] / (n_voxels * n_with_data)
    if missing > 0.001:
        sentence = f"{missing:.1%} of the values in the mask are 0 and count as background"
        if place := normalised.get("part_without_signal"):  # version 0.5.0 did not name it
            sentence += f": there is no signal in {place}"
        remedy = "" if missing <= 0.02 else " Look at the mosaic to see what is missing."
        verdicts.append((missing <= 0.02, f"{sentence}.{remedy}"))
    if normalised["n_constant"]:
        few = normalised["n_constant"] <= 0.001 * n_voxels
        fate = "are kept" if normalised["method"] == "global" else "count as background"
        verdicts.append(
            (
                few,
                f"{normalised['n_constant']:,} brain voxels do not change over time; they {fate}"
                + ("." if few else ". Check the mask and the field of view."),
            )
        )
    return verdicts
