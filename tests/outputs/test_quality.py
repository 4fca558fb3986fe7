"""Quality figures of a run, and the sentences that explain them."""

import copy
import json

import pytest

from swift_bids.outputs.quality import verdicts_of


@pytest.fixture(scope="module")
def qc(demo):
    """Quality figures of a good run."""
    file = next((demo / "swift_bids").rglob("sub-02_*run-1_*_qc.json"))
    return json.loads(file.read_text())


def test_a_good_run_has_no_warnings(qc):
    assert [sentence for good, sentence in verdicts_of(qc) if not good] == []
    assert qc["Warnings"] == []
    assert qc["DiffersFromTraining"] == {
        "TR": False,
        "TemporalInterpolation": False,
        "Space": False,
        "Grid": False,
        "Normalisation": False,
        "Statistics": False,
        "Intensity": False,
    }


@pytest.mark.parametrize(
    ("distortion", "slice_timing", "expected"),
    [
        (True, True, "head motion and distortion and slice timing."),
        (True, False, "head motion and distortion, but not for slice timing."),
        (False, False, "head motion, but not for distortion or slice timing."),
    ],
)
def test_how_a_raw_run_was_resampled(qc, distortion, slice_timing, expected):
    qc = copy.deepcopy(qc)
    qc["Preprocessing"] |= {
        "BrainMask": "functional",
        "SpatialInterpolation": "linear, one resampling from the raw BOLD",
        "HeadMotionCorrected": True,
        "DistortionCorrected": distortion,
        "SliceTimingCorrected": slice_timing,
    }
    (sentence,) = [s for good, s in verdicts_of(qc) if s.startswith("Resampled once") and good]
    assert f"from the raw BOLD (linear); corrected for {expected}" in sentence


def _set(section, **values):
    return lambda qc: qc[section].update(values)


def _slow(qc):
    qc["RepetitionTime"] = qc["Preprocessing"]["ModelRepetitionTime"] = 2.0
    qc["DiffersFromTraining"]["TR"] = True


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            _set("Coverage", extent_mm=[146, 180, 40], template_share=0.3),
            "Covers only a slab of the brain",
        ),
        (_set("Coverage", template_share=0.7), "covers 70% of the template's brain"),
        (_set("Coverage", size_ratio=1.4), "40% larger than it: skull or neck"),
        (_set("Coverage", n_outside=1000), "1,000 brain voxels"),
        (_set("Coverage", n_holes=5000), "has holes: 5,000 voxels inside it are background"),
        (_set("Coverage", n_islands=5000), "has islands: 5,000 voxels are apart from the rest"),
        (_slow, "spans 40 s here instead of 14 to 16 s. Use --target-tr auto"),
        (_set("Preprocessing", Space="MNI152NLin2009cAsym"), "is another template"),
        (_set("Motion", mean_fd=0.4), "Mean framewise displacement 0.40 mm"),
        (
            _set("Motion", mean_fd=None, max_chunk_fd=None, censored=None, confounds=False),
            "Head motion is unknown: there is no confounds table",
        ),
        (
            _set("Motion", mean_fd=0.0),
            "Head motion is unknown: framewise displacement is 0 in all volumes",
        ),
        (
            _set("Motion", mean_fd=None, max_chunk_fd=None, censored=None),
            "the confounds table has no framewise displacement",
        ),
        (_set("Chunks", included=1), "1 of 2 chunks"),
        (_set("Volumes", padded=7), "7 volumes of the last chunk are reflections"),
        (_set("Normalised", n_nonfinite=1234), "1,234 values are NaN"),
        (_set("Normalised", n_zero=1_000_000), "of the values in the mask are 0"),
        (
            _set("Normalised", n_constant=9000),
            "9,000 brain voxels do not change over time; they are kept",
        ),
        (_set("Normalised", tsnr=4.2), "Temporal signal-to-noise ratio 4 (median), which is low"),
        (
            _set("Normalised", mean=0.01, negative=0.5, tsnr=0.0),
            "50% of the voxels have a negative mean",
        ),
        (_set("Normalised", z_percentiles=[-2.0, 0.0, 9.0]), "span -2.0 to 9.0"),
        (_set("Normalised", mean=140.0, std=100.0), "its mean is 1.4 standard deviations"),
        (_set("Normalised", z_percentiles=[-0.1, 0.0, 0.1]), "scaled to the same mean"),
        (lambda qc: qc.update(InputWarnings=["the header's TR is odd"]), "The header's TR is odd."),
    ],
)
def test_every_fault_gives_one_warning(qc, change, text):
    changed = copy.deepcopy(qc)
    change(changed)
    warnings = [sentence for good, sentence in verdicts_of(changed) if not good]
    assert len(warnings) == 1
    assert text in warnings[0]


def _voxelwise(qc):
    qc["Normalised"] |= {"method": "voxel+global", "mean": 0.0, "negative": 0.5}


def _near(qc):
    qc["RepetitionTime"] = qc["Preprocessing"]["ModelRepetitionTime"] = 0.88


def _fast(qc):
    qc["RepetitionTime"] = 0.4


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_voxelwise, "(voxel+global), unlike in the training data"),
        (_near, "TR 0.88 s; the training data had 0.72 to 0.8 s."),
        (_fast, "to 0.8 s (signals above 0.62 Hz alias to lower frequencies)"),
    ],
)
def test_chosen_differences_are_reported_without_a_warning(qc, change, text):
    changed = copy.deepcopy(qc)
    change(changed)
    assert all(good for good, _ in verdicts_of(changed))
    assert any(text in sentence for _, sentence in verdicts_of(changed))


def test_outputs_of_older_versions_know_no_holes(qc):
    changed = copy.deepcopy(qc)
    del changed["Coverage"]["n_holes"], changed["Coverage"]["n_islands"]
    assert verdicts_of(changed) == verdicts_of(qc)


def test_the_volume_of_the_mask_is_given_in_litres(qc):
    sentence = verdicts_of(qc)[0][1]
    litres = (qc["Coverage"]["n_voxels"] + qc["Coverage"]["n_outside"]) * 8e-6
    assert sentence.startswith(f"The functional brain mask has {litres:.2f} litres and covers ")


def test_quality_of_the_slab_in_the_demo(demo):
    """nibabel's functional.nii: 20 volumes at TR 2 s, three slices of 8 mm."""
    file = next((demo / "swift_bids").rglob("sub-03_*_qc.json"))
    qc = json.loads(file.read_text())
    assert qc["DiffersFromTraining"]["Grid"] is True
    assert qc["DiffersFromTraining"]["TR"] is False  # after resampling
    assert qc["RepetitionTime"] == 2.0
    assert qc["Preprocessing"]["ModelRepetitionTime"] == 0.8
    assert qc["Preprocessing"]["TemporalInterpolation"] == "linear"
    assert qc["Preprocessing"]["SpatialInterpolation"].startswith("cubic")
    assert qc["Volumes"]["series"] == 48  # 0 to 37.6 s of 38
    assert qc["Chunks"]["total"] == 2
    assert any("Covers only a slab" in warning for warning in qc["Warnings"])


def test_empty_volumes_do_not_hide_missing_signal(qc):
    """Volumes that are NaN contain no zeros; they used to be subtracted nevertheless."""
    qc = copy.deepcopy(qc)
    n_used = qc["Volumes"]["total"] - qc["Volumes"]["dummy"]
    n_voxels = qc["Coverage"]["n_voxels"]
    qc["Faults"]["empty"] = [5, 6]
    qc["Normalised"] |= {
        "n_zero": int(0.03 * n_voxels) * (n_used - 2),
        "part_without_signal": "the lower part of the brain",
    }
    said = [sentence for good, sentence in verdicts_of(qc) if not good]
    assert said[0] == (
        "3.0% of the values in the mask are 0 and count as background: there is no signal in the "
        "lower part of the brain. Look at the mosaic to see what is missing."
    )


def test_repeated_volumes_are_no_head_motion(qc):
    qc = copy.deepcopy(qc)
    qc["Motion"] |= {"mean_fd": 0.05, "censored": 0.3, "not_measured": 0.28}
    (said,) = [(good, s) for good, s in verdicts_of(qc) if s.startswith("Mean framewise")]
    assert said == (True, "Mean framewise displacement 0.05 mm, 2% of the volumes above 0.5 mm.")
