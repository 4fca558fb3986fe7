"""What is known of a run -> its quality figures (qc.json), and what they mean in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from swift_bids.geometry.frames import TRAINING_SPACE, space_note
from swift_bids.geometry.resample_time import CHUNK_VOLUMES, TARGET_TR, TR_TOLERANCE
from swift_bids.inputs.run import Run
from swift_bids.steps.aggregate import Embeddings
from swift_bids.steps.crop import Coverage
from swift_bids.steps.normalise import Normalisation

#: A good sentence or one the user should act on: (good, sentence).
Verdict = tuple[bool, str]
#: Extent of a whole brain in mm (x, y, z), and the smallest share of it that is no slab.
_BRAIN_MM, _SLAB = (130, 160, 120), 0.6
#: Masked images of a brain are positive, and vary by a quarter to a half of their mean. Outside
#: these wide bounds something else is in the mask, or the data were demeaned or scaled.
_LEAST_MEAN_OVER_STD, _MOST_NEGATIVE = 1.5, 0.01
_Z_RANGE, _LEAST_CONTRAST = (-6.0, 6.0), 1.0


def quality(
    embeddings: Embeddings, normalisation: Normalisation, coverage: Coverage, run: Run
) -> dict[str, Any]:
    """Quality figures of a run, JSON-ready; missing numbers are None."""
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
        "Chunks": {
            "total": int(pooled["n_chunks"]),
            "included": int(pooled["n_included"]),
            "similarity_min": number(embeddings.similarity.min()),
            "distance_from_run": [number(d) for d in chunks["distance"]],
        },
        "Motion": {
            "confounds": run.confounds is not None,
            "mean_fd": number(chunks["mean_fd"].mean()),
            "max_chunk_fd": number(chunks["mean_fd"].max()),
            "censored": number(chunks["censored"].mean()),
        },
        "DiffersFromTraining": {
            "TR": round(abs(run.model_tr - TARGET_TR), 6) >= TR_TOLERANCE,
            "TemporalInterpolation": run.series.resampled,
            "Space": run.space != TRAINING_SPACE,
            "Grid": normalisation.interpolated,
            "Normalisation": normalisation.method != "global",
            "Intensity": _intensity(asdict(normalisation)) is not None,
        },
        "InputWarnings": list(run.warnings),
    }


def verdicts_of(qc: Mapping[str, Any]) -> list[Verdict]:
    """What the quality figures of a run mean, in plain words.

    Parameters
    ----------
    qc
        Content of the run's `qc.json`.

    Returns
    -------
    list of (good, sentence)
        `good` is False where the user should look or act.
    """
    normalised = qc["Normalised"]
    verdicts = [*_coverage(qc["Coverage"]), _timing(qc)]
    if normalised["interpolated"]:
        verdicts.append((True, "Resampled (linear) to the FSL 2 mm grid, which the network reads."))
    if note := space_note(qc["Preprocessing"]["Space"]):
        wanted = f"--output-spaces {TRAINING_SPACE}:res-2"
        verdicts.append((False, f"{note}; fMRIPrep writes the training's with {wanted}."))
    verdicts += [*_signal(normalised, qc["Coverage"]["n_voxels"], qc["Volumes"]), _motion(qc)]
    verdicts += _chunks(qc["Chunks"], qc["Volumes"])
    return verdicts + [(False, w[0].upper() + w[1:] + ".") for w in qc["InputWarnings"]]


def _coverage(coverage: Mapping[str, Any]) -> list[Verdict]:
    share, extent, dice = coverage["template_share"], coverage["extent_mm"], coverage["dice"]
    n_brain = coverage["n_outside"] + coverage["n_voxels"]
    lost = coverage["n_outside"] / n_brain
    outside = f"{coverage['n_outside']:,} brain voxels ({lost:.2%}) lie outside the network's input"
    if lost > 0.001:
        outside += (
            ": they are lost. Look at the mosaic; if the brain sits where it should, try the other "
            "--frame, else check the registration to MNI space"
        )
    verdicts = [(lost <= 0.001, outside + ".")]
    if min(mm / whole for mm, whole in zip(extent, _BRAIN_MM)) < _SLAB:
        sentence = (
            f"Covers only a slab of the brain: {extent[0]} mm from left to right, {extent[1]} mm "
            f"from back to front and {extent[2]} mm from bottom to top, {share:.0%} of the "
            f"template's brain. The network was trained on whole brains; do not compare this "
            f"embedding with those of whole-brain runs."
        )
        return [(False, sentence), *verdicts]
    sentence = (
        f"The brain mask covers {share:.0%} of the template's brain (Dice overlap {dice:.2f})"
    )
    if share < 0.85:
        sentence += "; look for signal loss or a failed registration, and leave the run out if so"
    elif coverage["size_ratio"] > 1.2:
        sentence += (
            f" and is {coverage['size_ratio'] - 1:.0%} larger than it: skull or neck seem to be in "
            f"it, which the network never saw. Look at the mosaic, and mend the mask"
        )
    return [(share >= 0.85 and coverage["size_ratio"] <= 1.2, sentence + "."), *verdicts]


def _timing(qc: Mapping[str, Any]) -> Verdict:
    tr, model_tr = qc["RepetitionTime"], qc["Preprocessing"]["ModelRepetitionTime"]
    said = f"TR {tr:g} s"
    if tr != model_tr:
        said += f", interpolated linearly in time to {model_tr:g} s"
    if model_tr > tr:
        said += f" (signals faster than {1 / (2 * model_tr):.2g} Hz fold into slower ones)"
    if not qc["DiffersFromTraining"]["TR"]:
        return True, f"{said}; the training data had 0.72 to 0.8 s."
    return False, (
        f"{said}; the network was trained at 0.72 to 0.8 s, so that a chunk of {CHUNK_VOLUMES} "
        f"volumes spans {CHUNK_VOLUMES * model_tr:g} s here instead of 14 to 16 s. With "
        f"--target-tr auto it is read at {TARGET_TR} s."
    )


def _intensity(normalised: Mapping[str, Any]) -> str | None:
    """How the intensities differ from those of a masked BOLD image, and what to do."""
    if normalised["method"] != "global":  # which leaves nothing of them
        return None
    ratio = normalised["mean"] / normalised["std"]
    low, _, high = normalised["z_percentiles"]
    if normalised["negative"] > _MOST_NEGATIVE:
        return (
            f"{normalised['negative']:.0%} of the voxels have a negative mean: the data seem to "
            f"have been demeaned or filtered. The network saw plain intensities; give it the "
            f"preproc BOLD of fMRIPrep, not denoised data"
        )
    if high - low < _LEAST_CONTRAST:
        return (
            f"the voxels' means hardly differ ({high - low:.2g} standard deviations from the 1st "
            f"to the 99th percentile), as if each had been scaled to the same mean. The network "
            f"saw the anatomy; give it the preproc BOLD of fMRIPrep"
        )
    if ratio < _LEAST_MEAN_OVER_STD or low < _Z_RANGE[0] or high > _Z_RANGE[1]:
        return (
            f"z-scores of the mean volume span {low:.1f} to {high:.1f} (1st to 99th percentile), "
            f"and its mean is {ratio:.2g} standard deviations. Look at the mosaic for air, skull "
            f"or vessels within the mask, or a strong bias field"
        )
    return None


def _signal(
    normalised: Mapping[str, Any], n_voxels: int, volumes: Mapping[str, int]
) -> list[Verdict]:
    verdicts = []
    if normalised["method"] != "global":
        sentence = (
            "Every voxel was z-scored over time (voxel+global); the network was trained without."
        )
        verdicts.append((True, sentence))
    if differs := _intensity(normalised):
        verdicts.append((False, f"Intensities differ from the training data's: {differs}."))
    tsnr = normalised["tsnr"]
    if normalised["negative"] <= _MOST_NEGATIVE:  # else there is no mean to compare noise with
        low = "" if tsnr >= 15 else ", which is low: look at the run for artefacts, or leave it out"
        verdicts.append((not low, f"Temporal signal-to-noise ratio {tsnr:.0f} (median){low}."))
    if normalised["n_nonfinite"]:
        verdicts.append(
            (
                False,
                f"{normalised['n_nonfinite']:,} values were NaN or infinite; they count as "
                f"background. Find out which step made them.",
            )
        )
    empty = normalised["n_zero"] / (n_voxels * (volumes["total"] - volumes["dummy"]))
    if empty > 0.001:
        verdicts.append(
            (
                empty <= 0.02,
                f"{empty:.1%} of the values within the mask are 0 (outside the field of view) and "
                f"count as background"
                + ("." if empty <= 0.02 else "; look at the mosaic for what is missing."),
            )
        )
    if normalised["n_constant"]:
        few = normalised["n_constant"] <= 0.001 * n_voxels
        kept = "were kept" if normalised["method"] == "global" else "count as background"
        verdicts.append(
            (
                few,
                f"{normalised['n_constant']:,} brain voxels do not change in time; they {kept}"
                + ("." if few else ". Check the mask and the field of view."),
            )
        )
    return verdicts


def _motion(qc: Mapping[str, Any]) -> Verdict:
    motion = qc["Motion"]
    if motion["mean_fd"] is None:
        reason = (
            "the confounds table has no framewise displacement. Look at how fMRIPrep made it."
            if motion["confounds"]
            else "there is no confounds table. Keep fMRIPrep's desc-confounds_timeseries.tsv "
            "beside the BOLD file."
        )
        return False, f"Head motion is unknown: {reason}"
    calm = motion["mean_fd"] <= 0.25 and motion["censored"] <= 0.2
    return calm, (
        f"Mean framewise displacement {motion['mean_fd']:.2f} mm, {motion['censored']:.0%} of the "
        f"volumes above {qc['Preprocessing']['FDThreshold']:g} mm"
        + (
            "."
            if calm
            else "; embeddings of moving heads carry the motion with them. --max-censored leaves "
            "out the worst chunks; in statistics, take mean_fd as a covariate."
        )
    )


def _chunks(chunks: Mapping[str, Any], volumes: Mapping[str, int]) -> list[Verdict]:
    complete = chunks["included"] == chunks["total"]
    sentence = (
        f"{chunks['included']} of {chunks['total']} chunks enter the embedding; {volumes['used']} "
        f"of {volumes['total']} volumes used, {volumes['dummy']} dummy scans and "
        f"{volumes['unused']} other volumes left out"
    )
    if not complete:
        sentence += (
            ". The grey chunks moved too much (--max-censored); few chunks make a noisy mean"
        )
    verdicts = [(complete, sentence + ".")]
    if volumes["padded"]:
        short = volumes["series"] < CHUNK_VOLUMES
        advice = (
            "compare it with other short runs only"
            if short
            else "--tail drop or overlap avoids that"
        )
        verdicts.append(
            (
                False,
                f"{volumes['padded']} volumes of the last chunk are reflections of earlier ones, "
                f"because the run ends before it; {advice}.",
            )
        )
    return verdicts
