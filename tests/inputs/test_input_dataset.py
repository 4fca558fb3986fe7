"""How the app interprets bids_dir and -d."""

import json

import pytest

from swift_bids.base.backbones import SWIFT
from swift_bids.base.errors import UsageError
from swift_bids.inputs.dataset import find_derivatives
from swift_bids.outputs.dataset import check_output_dir, write_dataset_files


def folder(path, participant="01", **description):
    (path / f"sub-{participant}").mkdir(parents=True)
    if description:
        (path / "dataset_description.json").write_text(json.dumps(description))
    return path


def test_bids_dir_can_be_the_derivatives(tmp_path):
    root = folder(tmp_path / "fmriprep", DatasetType="derivative")
    dataset = find_derivatives(root)
    assert (dataset.root, dataset.raw, dataset.participants) == (root, None, ["01"])
    assert dataset.interpretation == f"bids_dir {root} is read as fMRIPrep derivatives"


def test_bids_dir_can_be_the_raw_dataset_with_derivatives(tmp_path):
    raw = folder(tmp_path / "raw", "raw", DatasetType="raw")
    root = folder(tmp_path / "elsewhere", DatasetType="derivative")
    dataset = find_derivatives(raw, root)
    assert (dataset.root, dataset.raw, dataset.participants) == (root, raw, ["01"])
    assert "raw dataset" in dataset.interpretation


@pytest.mark.parametrize("description", [{"DatasetType": "raw"}, {"Name": "a study"}])
def test_a_raw_dataset_without_derivatives_is_rejected(tmp_path, description):
    raw = folder(tmp_path, **description)
    inside = folder(tmp_path / "derivatives" / "fmriprep", DatasetType="derivative")
    with pytest.raises(UsageError, match="is a raw BIDS dataset") as caught:
        find_derivatives(raw)
    assert str(caught.value).endswith(f"for example -d {inside}")


@pytest.mark.parametrize(
    "description",
    [{}, {"PipelineDescription": {"Name": "fMRIPrep"}}, {"GeneratedBy": [{"Name": "fMRIPrep"}]}],
)
def test_datasets_with_old_or_missing_descriptions_count_as_derivatives(tmp_path, description):
    assert find_derivatives(folder(tmp_path, **description)).participants == ["01"]


def test_wrong_folders_are_rejected(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        find_derivatives(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"contains no sub-\* folder"):
        find_derivatives(tmp_path)
    (tmp_path / "dataset_description.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        find_derivatives(tmp_path)


def test_output_must_not_be_the_input(tmp_path):
    raw, root = folder(tmp_path / "raw"), folder(tmp_path / "fmriprep")
    dataset = find_derivatives(raw, root)
    for given in (raw, root):
        with pytest.raises(UsageError, match="is the input folder"):
            check_output_dir(given, dataset)
    with pytest.raises(UsageError, match="lies in the input's data"):
        check_output_dir(root / "sub-01" / "swift", dataset)
    inside = raw / "derivatives" / "swift"
    assert check_output_dir(inside, dataset) == inside
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written to"):
        check_output_dir(tmp_path / "file" / "out", dataset)
    assert check_output_dir(tmp_path / "out", dataset) == tmp_path / "out"
    assert not (tmp_path / "out").exists()


def test_dataset_links_are_relative(tmp_path, monkeypatch):
    monkeypatch.setenv("SWIFT_BIDS_CONTAINER", "docker")
    root = folder(tmp_path / "fmriprep", DatasetType="derivative", License="CC0")
    raw = folder(tmp_path / "raw", Authors=["A", "B"], License="PDDL")
    write_dataset_files(tmp_path / "out", find_derivatives(raw, root), SWIFT)
    written = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert written["DatasetLinks"] == {"fmriprep": "../fmriprep", "raw": "../raw"}
    assert written["GeneratedBy"][0]["Container"]["Type"] == "docker"
    assert written["License"] == "CC0"
    assert written["Authors"] == ["A", "B"]  # fMRIPrep does not copy them


def test_an_output_folder_is_rejected_as_input(tmp_path):
    (tmp_path / "sub-1").mkdir()
    about = {"DatasetType": "derivative", "GeneratedBy": [{"Name": "swift_bids"}]}
    (tmp_path / "dataset_description.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match="is an output folder of swift_bids; give fMRIPrep's"):
        find_derivatives(tmp_path)
