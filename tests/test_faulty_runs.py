"""Runs with something wrong in time or in the file: what the app says and does about it."""

import gzip
import json
import struct

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app import run_app
from make_data import AFFINE, SHAPE, file_of, write_run
from safetensors.numpy import load_file

from swift_bids.group.connectivity import correlations, covariance
from swift_bids.outputs.quality import verdicts_of

N_VOLUMES = 44


def clean_data():
    """A run of 8 mm (X, Y, Z, volume) int16, which every case changes."""
    rng = np.random.default_rng(3)
    anatomy = rng.uniform(6000, 9000, SHAPE)
    drift = 60 * np.sin(np.linspace(0, 5, N_VOLUMES))
    noise = rng.standard_normal((*SHAPE, N_VOLUMES)) * 120
    return np.round(anatomy[..., None] + drift + noise).astype(np.int16)


def blank(data):
    data[..., 7] = 0


def spike(data):
    data[..., 11] = np.minimum(data[..., 11], 10_000) * 3


def stalled(data):
    data[..., 20:30] = data[..., 20:21]


def non_steady(data):
    data[..., :5] = data[..., :5] * np.array([2, 1.6, 1.3, 1.15, 1.05])


def half_brain(data):
    data[:12] = 0  # x from 88 to 0 mm


def missing_slab(data):
    data[:, :, 10:12, 30] = 0  # z from 10 to 18 mm


def step(data):
    data[..., 22:] = data[..., 22:] * 1.1


def unchanged(data):
    pass


def five_dimensions(bold):
    image = nib.load(bold)
    data = np.asarray(image.dataobj)[..., None, :]
    squeezed = nib.Nifti1Image(data, AFFINE)
    squeezed.header.set_zooms((8, 8, 8, 1, 0.8))
    squeezed.to_filename(bold)


def not_compressed(bold):
    bold.write_bytes(gzip.decompress(bold.read_bytes()))


def no_offset(bold):
    content = bytearray(gzip.decompress(bold.read_bytes()))
    struct.pack_into("<f", content, 108, 0.0)
    bold.write_bytes(gzip.compress(bytes(content)))


def volume_timing(bold):
    times = [round(0.8 * volume, 4) for volume in range(N_VOLUMES)]
    file_of(bold, "sidecar").write_text(json.dumps({"VolumeTiming": times}))


FAULTS = (blank, spike, stalled, non_steady, half_brain, missing_slab, step)
STORAGE = (five_dimensions, not_compressed, no_offset, volume_timing)


def write_all(root, names, **options):
    for case in (*FAULTS, *STORAGE, unchanged):
        if names and case.__name__ not in names:
            continue
        data = clean_data()
        if case not in STORAGE:
            case(data)
        label = case.__name__.replace("_", "")
        bold = write_run(root, label, data=data, **options)
        if case in STORAGE:
            case(bold)


@pytest.fixture(scope="module")
def outputs(made_once):
    """The app's outputs for all cases, without confounds."""

    def make(folder):
        write_all(folder / "in", None, confounds=None)
        call = (folder / "in", folder / "out", "participant", "--random-weights")
        done = run_app(*call)
        assert done.returncode == 0, done.stdout + done.stderr

    return made_once("faulty_runs", make) / "out"


def read(outputs, case, suffix):
    label = case.__name__.replace("_", "")
    return next((outputs / f"sub-{label}").rglob(f"*_{suffix}"))


def tokens(outputs, case):
    return load_file(read(outputs, case, "tokens.safetensors"))["tokens"]


def table(outputs, case, suffix):
    return pd.read_csv(read(outputs, case, suffix), sep="\t")


def warnings_of(outputs, case):
    """What the page marks, without the sentences that are the same for all cases."""
    found = json.loads(read(outputs, case, "qc.json").read_text())["Warnings"]
    same = json.loads(read(outputs, unchanged, "qc.json").read_text())["Warnings"]
    return [sentence for sentence in found if sentence not in same]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (unchanged, []),
        (
            blank,
            [
                "Volume 8 of 44 is empty and counts as censored. Find out what happened when the "
                "run was acquired or converted."
            ],
        ),
        (
            stalled,
            [
                "Volumes 22 to 30 of 44 repeat the volume before and count as censored. The "
                "scanner or the conversion has stalled; look at the raw data."
            ],
        ),
        (
            half_brain,
            [
                "55.4% of the values in the mask are 0 and count as background: there is no signal "
                "in the right hemisphere. Look at the mosaic to see what is missing."
            ],
        ),
        (
            missing_slab,
            [
                "In volume 31 of 44, the signal is lost in slices from z = 6 to 22 mm. Look for "
                "missing slices in the raw data, or for motion out of the field of view."
            ],
        ),
        (
            step,
            [
                "From volume 23 of 44 on, the intensity is 9.2% higher than before. Look for a "
                "change of the scanner's settings, or for two runs in one file."
            ],
        ),
        (
            not_compressed,
            [
                "The BOLD file is not compressed, although its name ends in .gz; rename it to "
                ".nii, because other programs may refuse it."
            ],
        ),
        (
            no_offset,
            [
                "The header of the BOLD file does not say where the data begin (vox_offset is 0); "
                "the app reads them from byte 352 on, where the NIfTI standard puts them."
            ],
        ),
        (five_dimensions, []),
        (volume_timing, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_said(outputs, case, expected):
    assert warnings_of(outputs, case) == expected


def test_what_is_said_of_a_bright_volume(outputs):
    intensity, *_ = [s for s in warnings_of(outputs, spike) if s.startswith("The intensity")]
    assert intensity.startswith("The intensity of volume 12 of 44 is 3")
    assert intensity.endswith("--robust-normalisation leaves it out of both.")


@pytest.mark.parametrize("case", STORAGE, ids=lambda case: case.__name__)
def test_how_a_file_is_stored_changes_nothing(outputs, case):
    assert tokens(outputs, case).tobytes() == tokens(outputs, unchanged).tobytes()
    qc = json.loads(read(outputs, case, "qc.json").read_text())
    assert qc["RepetitionTime"] == 0.8


def test_columns_of_the_chunks(outputs):
    chunks = table(outputs, unchanged, "desc-swift_timeseries.tsv")
    assert chunks["n_faulty"].tolist() == [0, 0]
    assert chunks["censored"].isna().all()
    chunks = table(outputs, blank, "desc-swift_timeseries.tsv")
    assert chunks["n_faulty"].tolist() == [1, 0]
    assert chunks["censored"].tolist() == [0.05, 0]
    chunks = table(outputs, stalled, "desc-swift_timeseries.tsv")
    assert chunks["n_faulty"].tolist() == [0, 9]
    chunks = table(outputs, spike, "desc-swift_timeseries.tsv")
    assert chunks["n_faulty"].tolist() == [1, 0]
    assert chunks["censored"].isna().all()


def test_the_table_of_volumes(outputs):
    file = read(outputs, blank, "desc-volumes_timeseries.tsv")
    volumes = pd.read_csv(file, sep="\t")
    assert len(volumes) == N_VOLUMES
    assert volumes["fault"].dropna().to_dict() == {7: "empty"}
    assert np.flatnonzero(volumes["global_signal"].isna()).tolist() == [7]
    assert np.flatnonzero(volumes["dvars"].isna()).tolist() == [0, 7, 8]
    assert volumes["framewise_displacement"].isna().all()
    assert not volumes["dummy"].any()
    about = json.loads(file.with_suffix(".json").read_text())
    assert set(volumes) <= set(about)
    assert about["Sources"][0].startswith("bids:fmriprep:sub-blank/func/")
    expected = clean_data()[tuple(slice(n // 4, 3 * n // 4) for n in SHAPE)].mean(axis=(0, 1, 2))
    others = np.delete(np.arange(N_VOLUMES), 7)
    np.testing.assert_allclose(volumes["global_signal"][others], expected[others], rtol=0.005)


def test_dummy_scans_are_found_in_the_data(outputs):
    qc = json.loads(read(outputs, non_steady, "qc.json").read_text())
    assert (qc["Volumes"]["dummy"], qc["Faults"]["dummy_scans_from"]) == (5, "data")
    (said,) = [sentence for _, sentence in verdicts_of(qc) if "dummy scans, so" in sentence]
    assert said == (
        "No table names the dummy scans, so the app looked for them in the data by fMRIPrep's rule "
        "(outliers at the start, among the first 40 volumes), and omits 5."
    )
    volumes = table(outputs, non_steady, "desc-volumes_timeseries.tsv")
    assert np.flatnonzero(volumes["dummy"]).tolist() == [0, 1, 2, 3, 4]
    assert table(outputs, non_steady, "desc-swift_timeseries.tsv")["start"].tolist() == [5]


def test_an_empty_volume_leaves_the_connectivity_as_it_was(outputs):
    found, expected = (
        correlations(covariance(read(outputs, run, "desc-denoised_timeseries.tsv"))[0][None])[0]
        for run in (blank, unchanged)
    )
    known = ~np.isnan(expected)
    assert known.sum() > 10
    assert (np.isnan(found) == np.isnan(expected)).all()
    assert np.abs(found[known] - expected[known]).mean() < 0.05


def test_robust_normalisation_restores_the_other_chunks(outputs, tmp_path):
    write_all(tmp_path / "in", ["spike", "unchanged"], confounds=None)
    call = (tmp_path / "in", tmp_path / "out", "participant", "--random-weights")
    done = run_app(*call, "--robust-normalisation")
    assert done.returncode == 0, done.stdout + done.stderr
    expected = tokens(outputs, unchanged)
    assert tokens(tmp_path / "out", unchanged).tobytes() == expected.tobytes()

    def change(found):
        return np.sqrt(np.mean((found[1] - expected[1]) ** 2) / np.mean(expected[1] ** 2))

    assert change(tokens(outputs, spike)) > 0.1
    assert change(tokens(tmp_path / "out", spike)) < 0.005
    sidecar = json.loads(read(tmp_path / "out", spike, "embedding.json").read_text())
    assert sidecar["Preprocessing"]["RobustNormalisation"] is True


def test_chunks_with_repeated_volumes_are_left_out_by_max_censored(tmp_path):
    write_all(tmp_path / "in", ["stalled"], confounds="framewise_displacement\n" + "0.1\n" * 44)
    call = (tmp_path / "in", tmp_path / "out", "participant", "--random-weights")
    done = run_app(*call, "--max-censored", "0.4")
    assert done.returncode == 0, done.stdout + done.stderr
    chunks = table(tmp_path / "out", stalled, "desc-swift_timeseries.tsv")
    assert chunks["censored"].tolist() == [0, 0.45]
    assert chunks["included"].tolist() == [True, False]


def test_a_table_and_the_data_disagree_on_dummy_scans(tmp_path):
    write_all(tmp_path / "in", ["non_steady"], confounds="framewise_displacement\n" + "0.1\n" * 44)
    call = (tmp_path / "in", tmp_path / "out", "participant", "--random-weights")
    done = run_app(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    qc = json.loads(read(tmp_path / "out", non_steady, "qc.json").read_text())
    (said,) = [sentence for sentence in qc["Warnings"] if "dummy" in sentence]
    assert said.startswith("The confounds table has no dummy scans, but the first 5 volumes are")
    assert "Check that the table belongs to this run" in said
