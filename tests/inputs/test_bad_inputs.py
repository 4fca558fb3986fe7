"""One dataset with many unusable runs: the app reports each of them and embeds the others."""

import gzip
import json
import os
import re
import struct

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app import run_app
from make_data import AFFINE, SHAPE, file_of, rows, write_run

#: Offsets and formats of the fields of a NIfTI-1 header.
FIELDS = {
    "dim": (40, "<8h"),
    "datatype": (70, "<h"),
    "pixdim": (76, "<8f"),
    "qform": (252, "<h"),
    "sform": (254, "<h"),
    "srow": (280, "<12f"),
}


def content(kind, change):
    """Return a function that changes the bytes of a file."""

    def damage(bold):
        file = file_of(bold, kind)
        changed = change(file.read_bytes())
        file.write_bytes(changed if isinstance(changed, bytes) else changed.encode())

    return damage


def bold(change):
    return content("bold", change)


def sidecar(text):
    return content("sidecar", lambda _: text)


def confounds(text):
    return content("confounds", lambda _: text)


def header(kind="bold", **fields):
    """Return a function that changes fields of a header without nibabel's checks."""

    def change(compressed):
        raw = bytearray(gzip.decompress(compressed))
        for name, value in fields.items():
            offset, form = FIELDS[name]
            struct.pack_into(form, raw, offset, *(value if isinstance(value, tuple) else (value,)))
        return gzip.compress(bytes(raw), 1)

    return content(kind, change)


def image(change, kind="bold", affine=AFFINE):
    """Return a function that replaces an image by one with changed data."""

    def damage(bold):
        file = file_of(bold, kind)
        changed = nib.Nifti1Image(change(np.asarray(nib.load(file).dataobj)), affine)
        if changed.ndim == 4 and kind == "bold":
            changed.header.set_zooms((*changed.header.get_zooms()[:3], 0.8))
        changed.to_filename(file)

    return damage


def filled(value):
    return lambda data: np.full(data.shape, value, np.float32)


def circle(bold):
    bold.unlink()
    bold.symlink_to(bold.name)


def fifo(kind):
    def damage(bold):
        file_of(bold, kind).unlink()
        os.mkfifo(file_of(bold, kind))

    return damage


def without_mask(bold):
    file_of(bold, "mask").unlink()


def flipped(position):
    """Flip one byte, at a fraction of the length or at an index."""

    def change(old):
        at = int(len(old) * position) if 0 < position < 1 else position
        return old[:at] + bytes([old[at] ^ 0xFF]) + old[at:][1:]

    return change


DIM = (4, *SHAPE, 22, 1, 1, 1)
DAMAGED = "cannot be read .* because it is damaged or incomplete; fetch it or create it again"
NO_NIFTI = r"bold.nii.gz: cannot be read \(.*\) because it is damaged or not a NIfTI file; fetch it"
NO_BRAIN = "bold.nii.gz: its header gives .* voxels, which cannot be a brain image; copy it again"
FLAT = "bold.nii.gz: the data do not vary within the brain mask; check"
OTHER_GRID = r"mask.nii.gz: the brain mask \(.*\) is not on the grid of .*; take mask and BOLD"
NO_TR = "its JSON sidecars contain no RepetitionTime in seconds"
NO_TABLE = "timeseries.tsv: cannot be read as a confounds table"
EMPTY_MASK = "mask.nii.gz: the brain mask has no voxel where the brain is in MNI space"
BAD = {  # label -> (damage, expected message)
    **{f"cut{n}": (bold(lambda b, n=n: b[: len(b) * n // 11]), DAMAGED) for n in range(1, 11)},
    "garbagebehind": (bold(lambda b: b + b"garbage" * 9), f"Not a gzipped file.*{DAMAGED[14:]}"),
    "wrongcrc": (bold(flipped(-8)), "bold.nii.gz: cannot be read .CRC check failed"),
    "flippedbyte": (bold(flipped(0.5)), DAMAGED),
    "empty": (bold(lambda b: b""), NO_NIFTI),
    "nogzip": (bold(lambda b: b"no image" * 99), NO_NIFTI),
    "gzipofnoimage": (bold(lambda b: gzip.compress(b"no image" * 99)), NO_NIFTI),
    "promisesmore": (
        header(dim=(4, *SHAPE, 400, 1, 1, 1)),
        "fewer than the 400 volumes that its header",
    ),
    "threed": (image(lambda d: d[..., 0]), "bold.nii.gz: has 3 dimensions, not 4; copy it again"),
    "fived": (
        image(lambda d: np.stack([d, d], axis=3)),
        "bold.nii.gz: has 5 dimensions, not 4; copy it again",
    ),
    "onevolume": (image(lambda d: d[..., :1]), "the run has 1 volumes, .*--short-runs pad"),
    "nineteen": (image(lambda d: d[..., :19]), "the run has 19 volumes, .*--short-runs pad"),
    "allnan": (image(filled(np.nan)), FLAT),
    "allinf": (image(filled(np.inf)), FLAT),
    "allzero": (image(filled(0)), FLAT),
    "allconstant": (image(filled(7)), FLAT),
    "complexdata": (
        image(lambda d: d.astype(np.complex64)),
        "complex64 values, .* real numbers; copy it again",
    ),
    "rgbdata": (
        image(lambda d: np.zeros(d.shape, [(c, "u1") for c in "RGB"])),
        "values, but BOLD values must be real numbers; copy it again",
    ),
    "bomb": (header(dim=(4, 10000, 10000, 10000, 22, 1, 1, 1)), NO_BRAIN),
    "bombintime": (
        header(dim=(4, *SHAPE, 32000, 1, 1, 1)),
        "but a file of .* bytes cannot contain them",
    ),
    "negativedim": (header(dim=(4, -23, *DIM[2:])), NO_BRAIN),
    "zerodim": (header(dim=(4, 0, *DIM[2:])), NO_BRAIN),
    "unknowntype": (header(datatype=9999), NO_NIFTI),
    "singular": (
        header(srow=(0,) * 12, sform=1),
        "its affine is singular or not finite; create the",
    ),
    "nanaffine": (header(srow=(np.nan,) * 12, sform=1), "its affine is singular or not finite"),
    "zerozooms": (header(pixdim=(1, 0, 0, 0, 0.8, 0, 0, 0), sform=0, qform=0), OTHER_GRID),
    "faraway": (header(srow=(-8, 0, 0, 9e3, 0, 8, 0, 0, 0, 0, 8, 0), sform=1), OTHER_GRID),
    "axislost": (header(srow=(-8, 0, 0, 88, 1e16, 8, 0, 0, 0, 0, 8, 0), sform=1), OTHER_GRID),
    "maskelsewhere": (
        image(lambda d: d, "mask", AFFINE + np.eye(4)),
        r"7 x 9 x 9 mm, LAS.* is not on the grid of .* 8 x 8 x 8 mm",
    ),
    "masksmaller": (image(lambda d: d[:-1], "mask"), OTHER_GRID),
    "maskempty": (image(lambda d: d * 0, "mask"), EMPTY_MASK),
    "masknan": (image(filled(np.nan), "mask"), EMPTY_MASK),
    "maskfourd": (
        image(lambda d: np.stack([d, d], -1), "mask"),
        "mask.nii.gz: has 4 dimensions, not 3; copy it again",
    ),
    "maskcut": (content("mask", lambda b: b[: len(b) // 2]), f"mask.nii.gz: {DAMAGED}"),
    "maskcrc": (content("mask", flipped(-8)), "mask.nii.gz: cannot be read .CRC check failed"),
    "maskbomb": (header("mask", dim=(3, 30000, 30000, 30000, 1, 1, 1, 1)), NO_BRAIN[5:]),
    "maskabsent": (without_mask, "has no brain mask in its space .*; copy .* again from fMRIPrep"),
    "trmissing": (sidecar("{}"), rf"{NO_TR}; correct .*bold.json"),
    "trnegative": (sidecar('{"RepetitionTime": -1}'), rf"{NO_TR} \(found -1\)"),
    "trtext": (sidecar('{"RepetitionTime": "0.8"}'), rf"{NO_TR} \(found '0.8'\)"),
    "trinms": (sidecar('{"RepetitionTime": 800}'), rf"{NO_TR} \(found 800\)"),
    "trnan": (sidecar('{"RepetitionTime": NaN}'), rf"{NO_TR} \(found nan\)"),
    "trhuge": (sidecar('{"RepetitionTime": 1e999}'), rf"{NO_TR} \(found inf\)"),
    "jsoncut": (sidecar('{"RepetitionTime": 0.8'), "bold.json: is not valid JSON .*; correct it"),
    "jsonlist": (sidecar("[0.8]"), "bold.json: contains list instead of names and values; correct"),
    "jsonbinary": (sidecar(bytes(range(256))), "bold.json: is not valid JSON"),
    "jsondeep": (
        sidecar("[" * 100_000),
        "bold.json: is not valid JSON .its brackets",
    ),
    "commas": (confounds(rows(22, "a,b")), "timeseries.tsv: its columns are not separated by tabs"),
    "fdtext": (
        confounds(rows(22).replace("0.1", "much")),
        "timeseries.tsv: framewise_displacement contains text instead of numbers .*; correct it",
    ),
    "tableempty": (confounds(""), NO_TABLE),
    "tablebinary": (confounds(bytes(range(256))), NO_TABLE),
    "boldfifo": (fifo("bold"), "bold.nii.gz: is not a regular file"),
    "sidecarfifo": (fifo("sidecar"), "bold.json: is not a regular file"),
    "circle": (
        circle,
        "bold.nii.gz: cannot be read .Too many levels of symbolic links.; check its",
    ),
}
GOOD = {  # unusual but usable
    "good": lambda bold: None,
    "zerosbehind": bold(lambda b: b + bytes(64)),
    "bomandcrlf": sidecar('\ufeff{\r\n"RepetitionTime": 0.8\r\n}\r\n'),
    "tenmegabytes": sidecar(json.dumps({"RepetitionTime": 0.8, "x": "y" * 10_000_000})),
    "tablecrlf": confounds("\ufeff" + rows(22).replace("\n", "\r\n")),
    "rowmissing": confounds(rows(21)),
    "nomotion": confounds("a\tb\n" + "1\t2\n" * 22),
    "masknotbinary": image(lambda d: d * np.float32(0.3), "mask"),
    "somenan": image(lambda d: np.where(np.arange(22) == 3, np.nan, d).astype(np.float32)),
}


@pytest.fixture(scope="module")
def status(tmp_path_factory, small_bundle):
    """One call for all runs: logs/status.tsv by label, the finished process and the folder."""
    folder = tmp_path_factory.mktemp("bad")
    for label, damage in {**{k: v[0] for k, v in BAD.items()}, **GOOD}.items():
        damage(write_run(folder / "in", label))
    call = (folder / "in", folder / "out", "participant", "--weights", small_bundle)
    done = run_app(*call, "--nprocs", "2")
    table = pd.read_csv(folder / "out" / "logs" / "status.tsv", sep="\t")
    return table.set_index(table["participant_id"].str.removeprefix("sub-")), done, folder


def test_the_dataset_has_at_least_60_bad_runs():
    assert len(BAD) >= 60


def test_exit_code_and_summary(status):
    table, done, _ = status
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert set(table.index) == set(BAD) | set(GOOD)
    assert f"done: {len(GOOD)} run(s)\nfailed: {len(BAD)} " in done.stdout
    assert len(done.stdout.splitlines()[-len(BAD) :]) == len(BAD)


@pytest.mark.parametrize("label", BAD)
def test_the_message_about_each_bad_run(status, label):
    table, done, _ = status
    row = table.loc[label]
    assert row["status"] == "failed"
    assert re.search(BAD[label][1], row["reason"]), row["reason"]
    assert row["reason"] in done.stdout
    assert "\n" not in row["reason"]


@pytest.mark.parametrize("label", GOOD)
def test_unusual_runs_are_embedded(status, label):
    table, _, folder = status
    assert table.loc[label, "status"] == "done"
    assert len(list((folder / "out" / f"sub-{label}").rglob("*_embedding.tsv"))) == 1


def test_failed_runs_leave_no_files(status):
    _, _, folder = status
    names = {path.name for path in (folder / "out").rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith(".part")]
    for label in BAD:
        assert not list((folder / "out").rglob(f"sub-{label}_*_embedding.*"))


def test_control_characters_and_html_in_names_are_escaped(tmp_path, small_bundle):
    red, script = "\x1b[31mred\x1b[2J", "<script>alert(1)<script>"
    (tmp_path / "in").mkdir()
    write_run(tmp_path / "in", "1")
    for label, task in (("2", red), ("3", script)):
        file = write_run(tmp_path / "in", label)
        for sibling in file.parent.iterdir():
            sibling.rename(sibling.with_name(sibling.name.replace("task-a", f"task-{task}")))
    label = f"4{red}<img src=x onerror=alert(1)>"
    for sibling in write_run(tmp_path / "in", "4").parent.iterdir():
        sibling.rename(sibling.with_name(sibling.name.replace("sub-4", f"sub-{label}")))
    (tmp_path / "in" / "sub-4").rename(tmp_path / "in" / f"sub-{label}")
    call = (tmp_path / "in", tmp_path / "out", "participant", "--weights", small_bundle)
    done = run_app(*call)
    listed = run_app(*call, "--dry-run")
    wrong = run_app(*call[:3], "--weights", red)
    for process in (done, listed, wrong):
        assert "\x1b" not in process.stdout + process.stderr
    assert "x1b[31mred" in done.stdout
    assert "\x1b" not in (tmp_path / "out" / "logs" / "status.tsv").read_text()
    assert "x1b[31mred" in wrong.stderr
    pages = list((tmp_path / "out").glob("sub-*.html"))
    assert f"sub-{label}.html" in {page.name for page in pages}
    for page in pages:
        assert script not in page.read_text()
        assert "<img src=x" not in page.read_text()
