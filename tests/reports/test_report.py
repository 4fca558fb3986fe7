"""The participant page: its content, and how a browser renders it."""

import json
import re
import shutil
import subprocess

import numpy as np
from app import PATIENCE, require_program, run_app
from PIL import Image

from swift_bids.base.errors import Problem
from swift_bids.geometry.frames import FRAMES
from swift_bids.reports import figures
from swift_bids.reports.carpet import save_in_few_colours
from swift_bids.reports.figures import model_input_mosaic
from swift_bids.reports.participant_page import (
    keep_problems,
    last_problems,
    write_participant_report,
)


def test_the_page_warns_about_a_slab(demo):
    page = (demo / "swift_bids" / "sub-03.html").read_text()
    assert "Covers only a slab of the brain: 70 mm from left to right" in page
    assert "Random weights." in page


def test_the_page_needs_no_other_file_and_escapes_names(demo, tmp_path):
    page = (demo / "swift_bids" / "sub-01.html").read_text()
    assert re.findall(r"(?:src|href)=\"(?!data:image/png|#)", page) == []
    assert "http" not in re.sub(r"<code>.*?</code>", "", page)
    problem = Problem("x", "sub-x_task-<script>", "<img onerror=alert(1)>")
    escaped = write_participant_report(tmp_path, "x", [problem])[0].read_text()
    assert "task-<script>" not in escaped
    assert "<img" not in escaped
    assert "sub-x_task-&lt;script&gt;" in escaped


def test_the_mosaic_labels_the_correct_side(monkeypatch):
    """A brain that is bright on the participant's left appears bright on the side labelled L."""
    volume, brain = np.zeros((96, 96, 96), np.float32), np.zeros((96, 96, 96), bool)
    brain[16:80, 10:90, 15:80] = True
    volume[48:80][brain[48:80]] = 1.0  # x increases to the left
    monkeypatch.setattr(figures, "template_in_input", lambda frame: np.roll(brain, 4, axis=1))
    figure = model_input_mosaic(volume, brain, FRAMES["ukb"])
    shown = figure.axes[0].images[0].get_array()[:96, 300:396]  # the fourth axial panel, (y, x)
    assert shown[:, :48].max() == 0
    assert shown[:, 48:].max() == 1
    template, mask = figure.axes[0].collections
    assert template.get_linewidth() < mask.get_linewidth()
    (above,), (below,) = (
        [path.vertices[path.vertices[:, 0] < 96][:, 1].min() for path in outline.get_paths()]
        for outline in (template, mask)
    )
    assert below - above == 4  # rows of the first axial panel; y increases upwards
    labels = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert labels["R"] < 48 < labels["L"]
    # the fourth of seven sagittal slices, between x = 16 and 79 of the input
    x = (FRAMES["ukb"].affine @ [48, 0, 0, 1])[0]
    assert f"x {x:.0f} mm" in labels


def test_the_outlines_of_the_mosaic_keep_their_colours(tmp_path):
    """Thin blue lines used to become grey."""
    brain = np.zeros((96, 96, 96), bool)
    brain[30:60, 30:60, 30:60] = True
    volume = np.where(brain, np.random.default_rng(0).random(brain.shape), 0).astype(np.float32)
    figure = model_input_mosaic(volume, brain, FRAMES["ukb"])
    save_in_few_colours(figure, tmp_path / "few.png", n_greys=64)
    pixels = np.asarray(Image.open(tmp_path / "few.png").convert("RGB")).reshape(-1, 3).astype(int)
    red, _, blue = pixels.T
    assert (blue - red > 30).sum() > 5000  # the template
    assert (red - blue > 60).sum() > 5000  # the mask


def test_the_page_in_a_browser(demo, tmp_path):
    chromium = require_program("chromium")
    page = demo / "swift_bids" / "sub-01.html"
    picture = tmp_path / "page.png"
    call = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1100,1400",
    ]
    shot = [*call, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(shot, check=True, capture_output=True, timeout=PATIENCE)
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (1400, 1100)
    black = (pixels < 10).mean(axis=1)
    assert black.max() > 0.5  # the black background of the mosaics is visible
    dump = subprocess.run(
        [*call, "--dump-dom", page.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    ).stdout
    assert len(re.findall(r'<section id="run-\d"', dump)) == 4
    for section in ("summary", "runs", "methods", "errors", "provenance"):
        assert f'<section id="{section}"' in dump


def test_pages_of_older_outputs_are_rebuilt(demo, tmp_path):
    """Version 0.5.0 did not record the layout of the input, the mask and what decides on it."""
    out = shutil.copytree(demo / "swift_bids", tmp_path / "out")
    for file in out.rglob("*_qc.json"):
        qc = json.loads(file.read_text())
        for key in ("InputType", "Denoising", "BrainMask", "Statistics"):
            del qc["Preprocessing"][key]
        for key in ("statistics", "intensity"):
            del qc["Normalised"][key]
        file.write_text(json.dumps(qc))
    page, _ = write_participant_report(out, "01", [])
    assert "damaged or from another version" not in page.read_text()
    assert (
        "BOLD runs preprocessed by fMRIPrep (Esteban et al. 2019) were masked" in page.read_text()
    )


def test_reports_only_rebuilds_pages_from_outputs(demo, tmp_path):
    """The pages have the figures, tables and errors of the last call; no run is embedded."""
    out = shutil.copytree(demo / "swift_bids", tmp_path / "swift_bids")
    page = out / "sub-01.html"
    before = page.read_text()
    page.unlink()
    call = (demo / "fmriprep", out, "participant", "--reports-only")
    done = run_app(*call, "--participant-label", "01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert page.read_text() == before
    assert done.stdout.splitlines()[-1] == f"report: {page}"
    nobody = run_app(demo / "fmriprep", tmp_path / "empty", "participant", "--reports-only")
    assert (nobody.returncode, "has no outputs" in nobody.stderr) == (2, True)


def test_a_rebuilt_page_shows_the_errors_of_the_last_call(tmp_path):
    log = tmp_path / "sub-x" / "log" / "20260101-000000_a"
    log.mkdir(parents=True)
    crash = log / "crash-1.txt"
    crash.write_text("long ago\n" * 100 + "ValueError: <b>the end</b>\n")
    problem = Problem("x", "sub-x_task-a", "embed failed", crash)
    keep_problems(log, [problem])
    assert last_problems(tmp_path, "x") == [problem]
    page = write_participant_report(tmp_path, "x", last_problems(tmp_path, "x"))[0].read_text()
    assert "embed failed" in page
    assert "ValueError: &lt;b&gt;the end&lt;/b&gt;" in page
    assert page.count("long ago") == 59
    (tmp_path / "sub-x" / "log" / "20260102-000000_b").mkdir()  # a later call without errors
    assert last_problems(tmp_path, "x") == []


def test_the_page_has_methods_and_references(demo):
    page = (demo / "swift_bids" / "sub-01.html").read_text()
    assert "Movement-related effects in fMRI time-series" in page
    assert "24 motion parameters (Friston et al. 1996)" in page


def all_keys(content, before=()):
    """The keys of every value in nested dictionaries, as tuples."""
    for key, value in content.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from all_keys(value, (*before, key))


def test_the_page_reports_a_damaged_qc_file(demo, tmp_path):
    """A missing or wrong value in qc.json used to crash the template, and the summary was lost."""
    folder = tmp_path / "sub-x" / "func"
    folder.mkdir(parents=True)
    file = folder / "sub-x_task-a_desc-swift_qc.json"
    (good,) = (demo / "swift_bids" / "sub-03").rglob("*_qc.json")
    n_reported = 0
    contents = ["null", "[]", "[" * 100_000]
    for keys in all_keys(json.loads(good.read_text())):
        for value in (None, "x", [], {}):
            changed = json.loads(good.read_text())
            place = changed
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = value
            if value == {}:
                del place[keys[-1]]
            contents.append(json.dumps(changed))
    for content in contents:
        file.write_text(content)
        page, _ = write_participant_report(tmp_path, "x")
        reported = "is damaged or from another version" in page.read_text()
        assert reported or 'id="run-1"' in page.read_text()
        n_reported += reported
    assert n_reported > 100
    file.write_text(good.read_text())
    page, _ = write_participant_report(tmp_path, "x")
    assert "is damaged or from another version" not in page.read_text()
