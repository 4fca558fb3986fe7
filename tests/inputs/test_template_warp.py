"""Runs in another template, warped to that of the training data (--template-warp)."""

import json
import shutil

import numpy as np
import pytest
from app import query, run_app
from make_data import write_derivative
from safetensors.numpy import load_file
from template_trees import (
    FROM_T1W,
    OTHER,
    TO_T1W,
    from_other,
    from_training,
    write_run,
    write_transform,
    write_transforms,
)

from swift_bids.base.errors import UsageError
from swift_bids.geometry.itk import read_composite
from swift_bids.inputs.template_warp import check_template_xfm
from swift_bids.inputs.transforms import GridWarp

TEMPLATEFLOW = f"tpl-MNI152NLin6Asym_from-{OTHER}_mode-image_xfm.h5"


def small_run(root, run="sub-01_task-rest", space=OTHER):
    return write_derivative(root, run, f"space-{space}_res-2")


def warp_of(root, **selection):
    runs, problems = query(root, **selection)
    assert problems == {}
    return runs[0].transforms


@pytest.fixture(scope="module")
def xfm(tmp_path_factory):
    """One file that leads from one template to the other, as TemplateFlow's."""
    file = tmp_path_factory.mktemp("templateflow") / TEMPLATEFLOW
    write_transform(file, 2.0, TO_T1W, FROM_T1W, -1.5)
    return file


def test_the_made_transforms_lead_from_one_template_to_the_other(tmp_path, xfm):
    points = np.random.default_rng(0).uniform(-60, 60, (500, 3))
    there = points
    for file in write_transforms(tmp_path):
        there = read_composite(file).apply(there)
    assert from_other(there) == pytest.approx(from_training(points), abs=0.01)
    assert read_composite(xfm).apply(points) == pytest.approx(there, abs=1e-6)
    assert np.median(np.linalg.norm(there - points, axis=1)) > 2


def test_the_participants_transforms_are_found(tmp_path, xfm):
    small_run(tmp_path)
    to_training, back = write_transforms(tmp_path)
    expected = GridWarp((str(to_training), str(back)))
    assert warp_of(tmp_path) == expected
    assert warp_of(tmp_path, template_xfm=xfm) == expected
    assert warp_of(tmp_path, interpolation="linear").interpolation == "linear"
    assert warp_of(tmp_path, template_warp="off") == GridWarp()


@pytest.mark.parametrize("missing", [0, 1])
def test_without_one_of_both_transforms_there_is_no_warp(tmp_path, xfm, missing):
    small_run(tmp_path)
    write_transforms(tmp_path)[missing].unlink()
    assert warp_of(tmp_path) == GridWarp()
    assert warp_of(tmp_path, template_xfm=xfm) == GridWarp((str(xfm),))


def test_the_anatomy_of_the_session_is_preferred(tmp_path):
    small_run(tmp_path, "sub-01_ses-2_task-rest")
    for session in ("1", "2"):
        write_transforms(tmp_path, f"sub-01_ses-{session}", f"sub-01/ses-{session}/anat")
    assert all("/ses-2/anat/" in file for file in warp_of(tmp_path).files)


def test_a_run_with_two_foreign_anatomies_is_not_warped_and_says_why(tmp_path, xfm):
    small_run(tmp_path, "sub-01_ses-3_task-rest")
    for session in ("1", "2"):
        write_transforms(tmp_path, f"sub-01_ses-{session}", f"sub-01/ses-{session}/anat")
    (run,), problems = query(tmp_path)
    assert problems == {}
    assert run.transforms == GridWarp()
    assert run.warnings[0].startswith("it is not warped with its own transforms: there are several")
    assert warp_of(tmp_path, template_xfm=xfm).steps == (str(xfm),)


def test_a_run_in_the_training_template_is_not_warped(tmp_path, xfm):
    small_run(tmp_path, space="MNI152NLin6Asym")
    write_transforms(tmp_path)
    assert warp_of(tmp_path, template_xfm=xfm) == GridWarp()


def test_a_transform_of_another_template_is_not_used(tmp_path, xfm):
    small_run(tmp_path, space="MNI152NLin2009cSym")
    warp = warp_of(tmp_path, spaces=["MNI152NLin2009cSym"], template_xfm=xfm)
    assert warp == GridWarp()


def test_transforms_that_were_not_fetched_are_named(tmp_path):
    small_run(tmp_path)
    _, back = write_transforms(tmp_path)
    back.unlink()
    back.symlink_to("../../.git/annex/objects/nowhere")
    _, problems = query(tmp_path)
    (reason,) = problems.values()
    assert f"the content of {back} is missing; fetch it" in reason


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tpl-MNI152NLin2009cAsym_from-MNI152NLin6Asym_mode-image_xfm.h5",
            "must lead from another",
        ),
        ("xfm.h5", "must lead from another"),
        ("sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5", "must lead from another"),
        (None, "does not exist"),
    ],
)
def test_a_wrong_template_xfm_is_refused(tmp_path, xfm, name, message):
    file = tmp_path / (name or TEMPLATEFLOW)
    if name:
        shutil.copy(xfm, file)
    with pytest.raises(UsageError, match=message):
        check_template_xfm(file)


def test_a_damaged_transform_fails_the_run_with_its_name(tmp_path, small_bundle):
    small_run(tmp_path / "in")
    _, back = write_transforms(tmp_path / "in")
    back.write_bytes(back.read_bytes()[:2000])
    done = run_app(tmp_path / "in", tmp_path / "out", "participant", "--weights", small_bundle)
    assert done.returncode == 1
    assert f"{back}: cannot be read as a composite transform" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, small_bundle, xfm):
    """How the run was read -> output folder; the first is the run in the training template."""
    root = tmp_path_factory.mktemp("templates")
    write_run(root / "training", "MNI152NLin6Asym")
    write_run(root / "other", OTHER)
    shutil.copytree(root / "other", root / "with_transforms")
    write_transforms(root / "with_transforms")
    outputs = {}
    for name, source, flags in (
        ("training", "training", ()),
        ("own", "with_transforms", ()),
        ("xfm", "other", ("--template-xfm", xfm)),
        ("off", "with_transforms", ("--template-warp", "off")),
    ):
        outputs[name] = root / f"out_{name}"
        arguments = ["participant", "--weights", small_bundle, *flags]
        done = run_app(root / source, outputs[name], *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    return outputs


def tokens(output):
    (file,) = output.rglob("*_tokens.safetensors")
    return load_file(file)["tokens"]


def test_the_warp_brings_the_tokens_five_times_nearer(embedded):
    expected = tokens(embedded["training"])

    def deviation(name):
        return np.sqrt(np.mean((tokens(embedded[name]) - expected) ** 2) / np.mean(expected**2))

    assert deviation("off") > 5 * deviation("own")
    assert deviation("xfm") == pytest.approx(deviation("own"), rel=0.05)


def test_the_outputs_tell_how_the_run_was_warped(embedded):
    def how(name):
        (sidecar,) = embedded[name].rglob("*_desc-swift_embedding.json")
        return json.loads(sidecar.read_text())

    own = how("own")
    warped = f"MNI152NLin6Asym from {OTHER}"
    assert own["Preprocessing"]["Space"] == warped
    assert own["Preprocessing"]["SpatialInterpolation"].startswith("cubic B-spline, one resampling")
    assert "SpaceNote" not in own["Preprocessing"]
    assert [source.rpartition("/")[2] for source in own["Sources"][2:]] == [
        "sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5",
        f"sub-01_from-{OTHER}_to-T1w_mode-image_xfm.h5",
    ]
    assert how("xfm")["Preprocessing"]["WarpedWith"] == TEMPLATEFLOW
    assert own["Preprocessing"]["WarpedWith"] == "the participant's transforms"
    assert own["Preprocessing"]["ResampledToFSL2mm"] is True
    assert how("off")["Preprocessing"]["Space"] == OTHER
    page = (embedded["own"] / "sub-01.html").read_text()
    assert f"Warped to MNI152NLin6Asym (cubic B-spline from {OTHER})" in page
    assert "template-xfm, so that the app can warp" not in page
    assert "template-xfm, so that the app can warp" in (embedded["off"] / "sub-01.html").read_text()


def test_the_group_level_keeps_warped_runs_apart(embedded, tmp_path):
    output = tmp_path / "mixed"
    shutil.copytree(embedded["own"], output)
    for file in list((embedded["off"] / "sub-01").rglob("*")):
        if file.is_file():
            name = str(file.relative_to(embedded["off"])).replace("sub-01", "sub-02")
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, output / name)
    done = run_app(embedded["own"].parent / "other", output, "group")
    assert done.returncode == 2
    assert f"MNI152NLin6Asym from {OTHER} (1 run)" in done.stderr
    assert "cannot be compared" in done.stderr


def test_the_warp_changes_what_counts_as_done(embedded, small_bundle):
    source, output = embedded["own"].parent / "with_transforms", embedded["off"]
    done = run_app(source, output, "participant", "--weights", small_bundle, "--dry-run")
    assert f"MNI152NLin6Asym from {OTHER}" in done.stdout
    done = run_app(source, output, "participant", "--weights", small_bundle)
    assert "embedding again: it was made with other settings" in done.stdout
    assert (tokens(output) == tokens(embedded["own"])).all()
    done = run_app(
        source, output, "participant", "--weights", small_bundle, "--template-warp", "off"
    )
    assert "embedding again: it was made with other settings" in done.stdout


def test_the_methods_tell_runs_that_were_warped_from_others(embedded, tmp_path, small_bundle):
    source = embedded["own"].parent / "with_transforms"
    shutil.copytree(source, tmp_path / "in")
    for file in list((source / "sub-01").rglob("*")):
        name = str(file.relative_to(source)).replace("sub-01", "sub-02")
        if file.is_file() and "_xfm" not in name:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "in" / name)
    done = run_app(tmp_path / "in", tmp_path / "out", "participant", "--weights", small_bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 run(s) are warped to MNI152NLin6Asym, but these have no transforms" in done.stdout
    text = (tmp_path / "out/logs/CITATION.md").read_text()
    first, second = text.split("Runs such as ")[1:]
    assert first.startswith(f"sub-01_task-rest_space-{OTHER}_res-2: BOLD runs preprocessed by")
    assert "(masks: the MultiLabel rule of ANTs), through the participant's transforms." in first
    assert second.startswith(f"sub-02_task-rest_space-{OTHER}_res-2: ")
    assert "through the participant's transforms" not in second
