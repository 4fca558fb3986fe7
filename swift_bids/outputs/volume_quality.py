"""Faults of a run's volumes -> sentences about them for the page. Sentences count from 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swift_bids.outputs.mask_quality import Verdict
from swift_bids.steps.volume_faults import FAULTS

#: Ranges of volumes that a sentence names at most.
_MAX_RANGES = 6
#: fMRIPrep looks for dummy scans in the raw file, so that the preprocessed data may have one more
#: or less.
_MAX_DIFFERENCE = 1


def volume_verdicts(
    faults: Mapping[str, Any], volumes: Mapping[str, int], robust: bool
) -> list[Verdict]:
    """Explain which volumes are faulty, and what follows from it.

    Parameters
    ----------
    faults, volumes
        The entries `Faults` and `Volumes` of a run's `qc.json`.
    robust
        Whether the statistics of the run leave faulty volumes out.
    """
    total = volumes["total"]
    sentences = []
    if empty := faults["empty"]:
        be, s = ("is", "s") if len(empty) == 1 else ("are", "")
        sentences.append(
            f"{_names(empty, total).capitalize()} {be} empty and count{s} as censored. Find out "
            f"what happened when the run was acquired or converted."
        )
    if repeated := faults["repeated"]:
        s = "s" * (len(repeated) == 1)
        sentences.append(
            f"{_names(repeated, total).capitalize()} repeat{s} the volume before and count{s} as "
            f"censored. The scanner or the conversion has stalled; look at the raw data."
        )
    if incomplete := faults["incomplete"]:
        sentences.append(
            f"In {_names(incomplete, total)}, the signal is lost in {faults['incomplete_part']}. "
            f"Look for missing slices in the raw data, or for motion out of the field of view."
        )
    if outlier := faults["outlier"]:
        low, high = min(faults["outlier_intensity"]), max(faults["outlier_intensity"])
        shares = dict.fromkeys([f"{low:.0%}", f"{high:.0%}"])
        share = " to ".join(shares)
        them = "it" if len(outlier) == 1 else "them"
        sentences.append(
            f"The intensity of {_names(outlier, total)} is {share} of the usual. "
            + (
                f"The mean and standard deviation of the run leave {them} out."
                if robust
                else f"This changes the mean and standard deviation of the run, and with them all "
                f"of its tokens; --robust-normalisation leaves {them} out of both."
            )
        )
    for volume, size in zip(faults["steps"], faults["step_sizes"]):
        sentences.append(
            f"From volume {volume + 1} of {total} on, the intensity is {abs(size):.1%} "
            f"{'higher' if size > 0 else 'lower'} than before. Look for a change of the scanner's "
            f"settings, or for two runs in one file."
        )
    verdicts = [(False, sentence) for sentence in sentences]
    if robust and any(faults[name] for name in FAULTS):
        sentence = (
            "Mean, standard deviation and background were computed without the faulty volumes "
            "(--robust-normalisation), unlike in training."
        )
        verdicts.append((True, sentence))
    return verdicts + _dummy_scans(faults, volumes)


def _dummy_scans(faults: Mapping[str, Any], volumes: Mapping[str, int]) -> list[Verdict]:
    """Whether the omitted volumes are those that fMRIPrep's rule finds in the data."""
    omitted, unsteady, source = volumes["dummy"], faults["unsteady"], faults["dummy_scans_from"]
    rule = "fMRIPrep's rule (outliers at the start, among the first 40 volumes)"
    count = f"{omitted or 'no'} dummy scan{'s' * (omitted != 1)}"
    if source == "data":
        sentence = (
            f"No table names the dummy scans, so the app looked for them in the data by {rule}, "
            f"and {f'omits {omitted}' if omitted else 'found none'}."
        )
        return [(True, sentence)]
    not_steady = {0: "all volumes are steady", 1: "the first volume is not steady"}
    in_data = not_steady.get(unsteady, f"the first {unsteady} volumes are not steady")
    in_data += f" by {rule}"
    if source == "table" and abs(omitted - unsteady) > _MAX_DIFFERENCE:
        sentence = (
            f"The confounds table has {count}, but {in_data}. Check that the table belongs to this "
            f"run and look at the carpet plot; --dummy-scans sets the number."
        )
        return [(False, sentence)]
    if source in ("flag", "training") and unsteady - omitted > _MAX_DIFFERENCE:
        reason = "--dummy-scans" if source == "flag" else "as in training"
        sentence = (
            f"The app omits {count} ({reason}), but {in_data}. Look at the carpet plot; "
            f"--dummy-scans sets the number."
        )
        return [(False, sentence)]
    return []


def _names(volumes: Sequence[int], total: int) -> str:
    """Name volumes, counted from 1: `volume 8 of 44`, `volumes 3, 5 and 7 to 9 of 44`."""
    ranges: list[list[int]] = []
    for volume in volumes:
        if ranges and volume == ranges[-1][1] + 1:
            ranges[-1][1] = volume
        else:
            ranges.append([volume, volume])
    names = [f"{a + 1}" if a == b else f"{a + 1} to {b + 1}" for a, b in ranges[:_MAX_RANGES]]
    if len(ranges) > _MAX_RANGES:
        names.append(f"{sum(b - a + 1 for a, b in ranges[_MAX_RANGES:])} others")
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"volume{'s' * (len(volumes) > 1)} {listed} of {total}"
