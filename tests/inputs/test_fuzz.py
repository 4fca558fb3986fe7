"""Random files and names: the app either accepts them or raises one of its own errors."""

import argparse
import gzip
import json
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_data import file_of, write_run

from swift_bids.base.errors import InputError, UsageError
from swift_bids.cli import values as flag_types
from swift_bids.cli.flags import build_parser
from swift_bids.execution.plugins import _read_plugin_file
from swift_bids.geometry.frames import FRAMES
from swift_bids.geometry.resample_time import Series
from swift_bids.inputs import filenames as names
from swift_bids.inputs.brain_mask import functional_mask
from swift_bids.inputs.confounds import count_dummy_scans, displacement_in, read_confounds
from swift_bids.inputs.dataset import find_derivatives
from swift_bids.inputs.filters import read_filter_file
from swift_bids.inputs.run import complete_run
from swift_bids.inputs.selection import Selection
from swift_bids.network.checkpoint import read_config
from swift_bids.steps.locate_warped import locate_warped
from swift_bids.steps.normalise import normalise

bounded = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,  # the same examples in every run of the tests
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
#: Includes lone surrogates, which can occur in JSON, file names and arguments.
texts = st.text(st.characters(exclude_categories=()), max_size=9)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner),
    max_leaves=9,
)


@pytest.fixture(scope="module")
def bold(tmp_path_factory):
    """A good run, whose files the tests copy and damage."""
    return write_run(tmp_path_factory.mktemp("fuzz") / "in", "1")


@pytest.fixture(scope="module", autouse=True)
def digests(bold):
    """SHA-256 of the run's files before the first test."""
    return {file: sha256(file.read_bytes()).hexdigest() for file in bold.parent.iterdir()}


def app_error(call):
    """Return the message of the app's own error, or None without an error; other errors propagate
    and fail the test."""
    try:
        call()
    except (InputError, UsageError, argparse.ArgumentTypeError) as error:
        return str(error).strip()
    return None


def copied(bold, folder):
    """Copy a run to another folder."""
    for file in bold.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / bold.name


def try_run(bold, matrix):
    """Process the files of a run up to the input of the network."""
    mask, confounds = (file_of(bold, kind) for kind in ("mask", "confounds"))
    about = {"name": "sub-1_task-a_space-MNI152NLin6Asym", "participant": "1", "others": ()}
    files = {"bold": str(bold), "mask": functional_mask(str(mask)), "confounds": str(confounds)}
    selection = Selection(target_tr="native")
    run = complete_run(about | files | {"space": "MNI152NLin6Asym"}, list, selection)
    displacement_in(read_confounds(confounds), run.n_volumes, confounds)
    located, points = locate_warped(bold, functional_mask(mask), run.transforms, FRAMES["ukb"])
    located.to_filename(matrix.with_name("mask.nii"))
    done = normalise(
        bold,
        matrix.with_name("mask.nii"),
        FRAMES["ukb"],
        Series(22, 0.8, 0, 0.8),
        matrix,
        points=points,
    )
    assert np.load(matrix).shape[0] == done.n_volumes == 22


def is_read_or_refused(bold, folder):
    """Whether the run is accepted, or rejected with a message."""
    return app_error(lambda: try_run(bold, folder / "matrix.npy")) != ""


@pytest.mark.long
@settings(bounded, max_examples=60)
@given(data=st.data(), kind=st.sampled_from(["bold", "mask"]))
def test_random_bytes_in_a_header(bold, tmp_path, data, kind):
    """Such headers can make nibabel allocate much memory or read beyond the end of the file."""
    bold = copied(bold, tmp_path)
    file = file_of(bold, kind)
    raw = bytearray(gzip.decompress(file.read_bytes()))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, 351))
        raw[position] = data.draw(st.integers(0, 255))
    file.write_bytes(gzip.compress(bytes(raw), 1))
    assert is_read_or_refused(bold, tmp_path)


@bounded
@given(data=st.data(), kind=st.sampled_from(["bold", "mask", "confounds", "sidecar"]))
def test_random_bytes_in_a_file(bold, tmp_path, data, kind):
    bold = copied(bold, tmp_path)
    file = file_of(bold, kind)
    raw = bytearray(file.read_bytes())
    start = data.draw(st.integers(0, len(raw)))
    length = data.draw(st.integers(0, 64))
    raw[start : start + length] = data.draw(st.binary(max_size=64))
    file.write_bytes(bytes(raw))
    assert is_read_or_refused(bold, tmp_path)


@bounded
@given(content=json_values | st.fixed_dictionaries({"RepetitionTime": json_values}))
def test_random_sidecars(bold, tmp_path, content):
    bold = copied(bold, tmp_path)
    file_of(bold, "sidecar").write_text(json.dumps(content))
    assert is_read_or_refused(bold, tmp_path)


@bounded
@given(
    text=st.text(
        alphabet=st.sampled_from("framewise_displacement\t\n\r,0.1n/a\"' \ufeff\0"), max_size=99
    )
)
def test_random_confounds(tmp_path, text):
    file = tmp_path / "confounds.tsv"
    file.write_text(text, newline="")

    def read():
        table = read_confounds(file)
        assert 0 <= count_dummy_scans(table) <= len(table.columns)
        displacement = displacement_in(table, len(table), file)
        assert displacement is None or displacement.shape == (len(table),)

    assert app_error(read) != ""


@bounded
@given(content=json_values, text=st.text(max_size=60))
def test_random_settings_files(tmp_path, content, text):
    for written in (json.dumps(content), text):
        for name in ("a.json", "config.json", "a.toml", "a.yml", "dataset_description.json"):
            (tmp_path / name).write_text(written)
        for read in (
            lambda: read_filter_file(tmp_path / "a.json"),
            lambda: read_config(tmp_path / "model.safetensors"),
            lambda: flag_types.config_file_flags(tmp_path / "a.toml", build_parser()),
            lambda: _read_plugin_file(tmp_path / "a.yml", None),
            lambda: find_derivatives(tmp_path),
        ):
            assert app_error(read) != ""


@bounded
@given(text=st.text(st.characters(exclude_categories=()), max_size=30))
def test_random_arguments_and_names(text):
    assert not [entity for entity in names.entities_in(text) if "_" in entity]
    assert names.is_in_space({"space": "x", "res": text}, "y") is False
    names.is_in_space({"space": "x", "res": text}, text)
    assert names.plain(names.plain(text)) == names.plain(text)
    for parse in (
        flag_types.batch,
        flag_types.positive,
        flag_types.auto_or_count,
        flag_types.target_tr,
        flag_types.millimetres,
        flag_types.share,
        flag_types.device,
        flag_types.gigabytes,
        flag_types.parse_labels,
    ):
        assert app_error(lambda parse=parse: parse(text)) != ""


def test_the_original_run_is_unchanged(bold, digests, tmp_path):
    """The tests change only copies of the run."""
    try_run(bold, tmp_path / "matrix.npy")
    assert {file: sha256(file.read_bytes()).hexdigest() for file in digests} == digests
