"""Quality metrics of a run over time -> sentences: its TR, its motion and its chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift_bids.base.backbones import BACKBONES
from swift_bids.outputs.mask_quality import Verdict


def timing_verdict(qc: Mapping[str, Any]) -> Verdict:
    """Compare the TR at which the network read a run (`qc.json`) with that of its training."""
    tr, model_tr = qc["RepetitionTime"], qc["Preprocessing"]["ModelRepetitionTime"]
    sentence = f"TR {tr:g} s"
    if tr != model_tr:
        sentence += f", interpolated linearly to {model_tr:g} s"
    if model_tr > tr:
        sentence += f" (signals above {1 / (2 * model_tr):.2g} Hz alias to lower frequencies)"
    backbone = BACKBONES[qc["Model"]["Variant"]]
    chunk_volumes, wanted = backbone.network.chunk_volumes, backbone.time.target_tr
    trained, usual = f"{wanted} s", f"{chunk_volumes * wanted:g} s"
    similar = f"; the training data were brought to {trained}, too."
    if backbone.time.tolerance:
        trained, usual = f"0.72 to {wanted} s", "14 to 16 s"
        similar = f"; the training data had {trained}."
    if not qc["DiffersFromTraining"]["TR"]:
        return True, sentence + similar
    return False, (
        f"{sentence}; the network was trained at {trained}, so a chunk of {chunk_volumes} "
        f"volumes spans {chunk_volumes * model_tr:g} s here instead of {usual}. Use "
        f"--target-tr auto to resample the run to {wanted} s."
    )


def motion_verdict(qc: Mapping[str, Any]) -> Verdict:
    """Say how much a run (`qc.json`) moved."""
    motion = qc["Motion"]
    if motion["mean_fd"] is None:
        reason = (
            "the confounds table has no framewise displacement. Check how it was made."
            if motion["confounds"]
            else "there is no confounds table and no motion file. Keep fMRIPrep's "
            "desc-confounds_timeseries.tsv, or the motion file of your pipeline, where it was."
        )
        return False, f"Head motion is unknown: {reason}"
    if motion["mean_fd"] == 0:
        return False, (
            "Head motion is unknown: framewise displacement is 0 in all volumes. They were aligned "
            "before their motion was estimated."
        )
    # without empty and repeated volumes, which have their own sentence
    moving = max(0.0, motion["censored"] - motion.get("not_measured", 0.0))
    calm = motion["mean_fd"] <= 0.25 and moving <= 0.2
    return calm, (
        f"Mean framewise displacement {motion['mean_fd']:.2f} mm, {moving:.0%} of the volumes "
        f"above {qc['Preprocessing']['FDThreshold']:g} mm"
        + (
            "."
            if calm
            else "; head motion affects the embeddings. --max-censored excludes the worst chunks; "
            "in statistics, use mean_fd as a covariate."
        )
    )


def chunk_verdicts(
    chunks: Mapping[str, Any], volumes: Mapping[str, int], chunk_volumes: int
) -> list[Verdict]:
    """Say how many chunks and volumes a run has, from parts of `qc.json`."""
    complete = chunks["included"] == chunks["total"]
    sentence = (
        f"{chunks['included']} of {chunks['total']} chunks are included in the embedding; "
        f"{volumes['used']} of {volumes['total']} volumes used, {volumes['dummy']} dummy scans and "
        f"{volumes['unused']} other volumes omitted"
    )
    if not complete:
        sentence += (
            ". Too many volumes of the grey chunks are censored (--max-censored); a mean of few "
            "is noisy"
        )
    verdicts = [(complete, sentence + ".")]
    if volumes["padded"]:
        short = volumes["series"] < chunk_volumes
        advice = (
            "compare this run with other short runs only"
            if short
            else "--tail drop or overlap avoids this"
        )
        verdicts.append(
            (
                False,
                f"{volumes['padded']} volumes of the last chunk are reflections of earlier ones, "
                f"because the run ends before the chunk does; {advice}.",
            )
        )
    return verdicts
