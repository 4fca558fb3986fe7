"""Folder layouts of fMRIPrep 20 to 25, OpenNeuro, DataLad and users."""

import gzip
import json
import os

import nibabel as nib
import numpy as np
import pytest
from app import ROOT, query
from make_data import write_derivative

#: File names (L: annexed, F: in git) and small text files of the real dataset, CC0.
OPENNEURO = ROOT / "tests" / "data" / "trees" / "ds000114-fmriprep"
SMALL = {"shape": (4, 5, 6), "n_volumes": 21}
TASKS = "covertverbgeneration fingerfootlips linebisection overtverbgeneration overtwordrepetition"


@pytest.fixture(scope="module")
def openneuro(tmp_path_factory):
    """OpenNeuro's fMRIPrep 21.0.2 output of ds000114, as a DataLad clone without content."""
    root = tmp_path_factory.mktemp("openneuro") / "ds000114-fmriprep"
    content = json.loads(gzip.decompress((OPENNEURO / "texts.json.gz").read_bytes()))
    names = gzip.decompress((OPENNEURO / "names.txt.gz").read_bytes()).decode().splitlines()
    for line in names:
        kind, name = line.split(" ", 1)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "L":
            path.symlink_to(os.path.relpath(root / ".git" / "annex" / name, path.parent))
        else:
            path.write_text(content["texts"].get(content["paths"].get(name), ""))
    return root


def _template_transforms(openneuro):
    """The files with which a run in MNI152NLin2009cAsym is warped to MNI152NLin6Asym."""
    return [
        openneuro / "sub-01" / "anat" / f"sub-01_from-{start}_to-{end}_mode-image_xfm.h5"
        for start, end in (("T1w", "MNI152NLin6Asym"), ("MNI152NLin2009cAsym", "T1w"))
    ]


def test_an_unfetched_openneuro_clone(openneuro):
    """The app reports each run by name and says which files to fetch."""
    runs, problems = query(openneuro)
    assert runs == []
    assert len(problems) > 50
    name = "sub-01_ses-test_task-fingerfootlips_space-MNI152NLin2009cAsym_res-2"
    bold = openneuro / "sub-01" / "ses-test" / "func" / f"{name}_desc-preproc_bold.nii.gz"
    mask = bold.with_name(f"{name}_desc-brain_mask.nii.gz")
    confounds = bold.with_name("sub-01_ses-test_task-fingerfootlips_desc-confounds_timeseries.tsv")
    transforms = _template_transforms(openneuro)
    missing = " ".join(map(str, [bold, mask, confounds, *transforms]))
    assert problems[name] == (
        f"the content of 5 files is missing; fetch it (datalad get {missing}); --template-warp off "
        f"does without the transforms"
    )
    assert all("datalad get" in reason for reason in problems.values())


def test_an_openneuro_clone_with_some_content(openneuro):
    """The BOLD and mask of one session are fetched; its confounds are not."""
    folder = openneuro / "sub-01" / "ses-test" / "func"
    fetched = []
    for link in [*folder.glob("*MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii.gz")]:
        mask = link.with_name(link.name.replace("preproc_bold", "brain_mask"))
        shape = (4, 5, 6, 30)
        for path, data in ((link, np.ones(shape, np.int16)), (mask, np.ones(shape[:3], np.uint8))):
            path.unlink()
            image = nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1]))
            if data.ndim == 4:
                image.header.set_zooms((2, 2, 2, 2.5))
            image.to_filename(path)
            fetched.append(path)
    runs, problems = query(openneuro, sessions=["test"])
    own = {name: reason for name, reason in problems.items() if name.startswith("sub-01")}
    confounds = folder / "sub-01_ses-test_task-fingerfootlips_desc-confounds_timeseries.tsv"
    name = "sub-01_ses-test_task-fingerfootlips_space-MNI152NLin2009cAsym_res-2"
    assert runs == []
    missing = " ".join(map(str, [confounds, *_template_transforms(openneuro)]))
    assert f"the content of 3 files is missing; fetch it (datalad get {missing})" in own[name]
    _, problems = query(openneuro, sessions=["test"], template_warp="off")
    assert (
        problems[name]
        == f"the content of {confounds} is missing; fetch it (datalad get {confounds})"
    )
    for link in folder.glob("*_desc-confounds_timeseries.tsv"):
        link.unlink()
        link.write_text("framewise_displacement\tnon_steady_state_outlier00\n" + 30 * "n/a\t1\n")
    for link in _template_transforms(openneuro):
        link.unlink()
        link.write_bytes(b"")
    runs, problems = query(openneuro, sessions=["test"])
    assert [run.name.split("_")[2] for run in runs] == [f"task-{task}" for task in TASKS.split()]
    (run,) = (run for run in runs if run.name == name)
    assert (run.space, run.repetition_time, run.first_volume) == ("MNI152NLin2009cAsym", 2.5, 1)
    assert run.mask.file == str(folder / f"{name}_desc-brain_mask.nii.gz")
    assert run.transforms.files == list(map(str, _template_transforms(openneuro)))
    assert run.others == (
        "sub-01_ses-test_task-fingerfootlips",
        "sub-01_ses-test_task-fingerfootlips_space-T1w",
    )  # without ICA-AROMA's smoothed outputs
    assert len(problems) > 20


def _write_runs(root, *runs, **options):
    for run in runs:
        write_derivative(root, run, **SMALL | options)


def _fmriprep_20(root):
    _write_runs(root, "sub-01_task-rest_run-1", space="space-MNI152NLin2009cAsym")
    func = root / "sub-01" / "func"
    (func / "sub-01_task-rest_run-1_desc-confounds_regressors.tsv").write_text("csf\n" + "1\n" * 21)
    about = {"Name": "fMRIPrep", "PipelineDescription": {"Name": "fMRIPrep"}}
    (root / "dataset_description.json").write_text(json.dumps(about))


def _fmriprep_23(root):
    _write_runs(root, "sub-01_ses-1_task-rest_acq-mb_dir-AP_run-01", tr=0.45, n_volumes=40)
    _write_runs(root, "sub-01_ses-1_task-rest_acq-mb_dir-PA_run-01", tr=0.45, n_volumes=40)


def _fmriprep_24(root):
    """The output has the resolution of the raw BOLD, and no res entity."""
    _write_runs(root, "sub-01_task-rest", space="space-MNI152NLin2009cAsym", shape=(7, 8, 9))
    func = root / "sub-01" / "func"
    for name in ("desc-hmc_boldref.nii.gz", "desc-coreg_boldref.nii.gz"):
        (func / f"sub-01_task-rest_{name}").touch()


def _fmriprep_25(root):
    _write_runs(root, "sub-01_task-rest_echo-1", space="")
    _write_runs(root, "sub-01_task-rest_echo-2", space="")
    _write_runs(root, "sub-01_task-rest", space="space-MNI152NLin6Asym_res-02")


def _cohorts(root):
    _write_runs(root, "sub-01_task-rest", space="space-MNIPediatricAsym_cohort-1_res-2")
    _write_runs(root, "sub-01_task-rest")


def _mixed_sessions(root):
    _write_runs(root, "sub-01_task-rest", "sub-02_ses-a_task-rest", "sub-B7x_task-rest_run-7")


def _no_description(root):
    _write_runs(root, "sub-01_task-rest")
    (root / "dataset_description.json").unlink()


def _links(root):
    _write_runs(root, "sub-01_task-rest")
    (root / "sub-01").rename(root.parent / "elsewhere")
    (root / "sub-01").symlink_to(root.parent / "elsewhere")


def _no_confounds_and_n_a(root):
    _write_runs(root, "sub-01_task-a")
    _write_runs(root, "sub-01_task-b", confounds="framewise_displacement\n" + "n/a\n" * 21)


MNI6, MNI9 = "space-MNI152NLin6Asym_res-2", "space-MNI152NLin2009cAsym"


@pytest.mark.parametrize(
    ("lay_out", "names"),
    [
        (_fmriprep_20, [f"sub-01_task-rest_run-1_{MNI9}"]),
        (
            _fmriprep_23,
            [f"sub-01_ses-1_task-rest_acq-mb_dir-{d}_run-01_{MNI6}" for d in ("AP", "PA")],
        ),
        (_fmriprep_24, [f"sub-01_task-rest_{MNI9}"]),
        (_fmriprep_25, ["sub-01_task-rest_space-MNI152NLin6Asym_res-02"]),
        (_cohorts, [f"sub-01_task-rest_{MNI6}"]),
        (
            _mixed_sessions,
            [
                f"sub-01_task-rest_{MNI6}",
                f"sub-02_ses-a_task-rest_{MNI6}",
                f"sub-B7x_task-rest_run-7_{MNI6}",
            ],
        ),
        (_no_description, [f"sub-01_task-rest_{MNI6}"]),
        (_links, [f"sub-01_task-rest_{MNI6}"]),
        (_no_confounds_and_n_a, [f"sub-01_task-{t}_{MNI6}" for t in "ab"]),
    ],
)
def test_runs_are_found_in_every_layout(tmp_path, lay_out, names):
    root = tmp_path / "mit Leerzeichen und Ä" / "fmriprep"
    root.mkdir(parents=True)
    lay_out(root)
    runs, problems = query(root)
    assert [run.name for run in runs] == names
    assert problems == {}
    for run in runs:
        assert run.mask.file == run.bold.replace("preproc_bold", "brain_mask")
    if lay_out is _fmriprep_20:
        assert runs[0].confounds.endswith("_desc-confounds_regressors.tsv")
    if lay_out is _fmriprep_23:
        assert [(run.repetition_time, run.model_tr) for run in runs] == [(0.45, 0.8)] * 2
    if lay_out is _cohorts:
        assert runs[0].others == ("sub-01_task-rest_space-MNIPediatricAsym_cohort-1_res-2",)
        (run,), _ = query(root, spaces=["MNIPediatricAsym:cohort-1"])
        assert run.space == "MNIPediatricAsym"
        assert (
            "MNIPediatricAsym"
            in query(root, spaces=["MNIPediatricAsym:cohort-2"])[1]["sub-01_task-rest"]
        )
