"""The participant page: what it says, and what a browser makes of it."""

import re
import subprocess

import numpy as np
from conftest import require_program
from PIL import Image

from swift_bids.errors import Problem
from swift_bids.figures import model_input_mosaic
from swift_bids.report import write_participant_report


def test_the_real_run_says_that_it_is_a_slab(demo):
    page = (demo / "swift_bids" / "sub-03.html").read_text()
    assert "Covers only a slab of the brain: 66 mm from left to right" in page
    assert "Random weights." in page


def test_page_needs_no_other_file_and_escapes_names(demo, tmp_path):
    page = (demo / "swift_bids" / "sub-01.html").read_text()
    assert re.findall(r"(?:src|href)=\"(?!data:image/png|#)", page) == []
    assert "http" not in re.sub(r"<code>.*?</code>", "", page)
    bad = Problem("x", "sub-x_task-<script>", "<img onerror=alert(1)>")
    escaped = write_participant_report(tmp_path, "x", [bad])[0].read_text()
    assert "<script>" not in escaped
    assert "<img" not in escaped
    assert "sub-x_task-&lt;script&gt;" in escaped


def test_mosaic_marks_the_right_side():
    """A brain that is bright on the participant's left is bright on the side marked L."""
    volume, brain = np.zeros((96, 96, 96), np.float32), np.zeros((96, 96, 96), bool)
    brain[16:80, 10:90, 15:80] = True
    volume[48:80][brain[48:80]] = 1.0  # x grows to the left
    figure = model_input_mosaic(volume, brain)
    panel = figure.axes[3]
    shown = panel.images[0].get_array()  # (y, x), origin below
    assert shown[:, :48].max() == 0
    assert shown[:, 48:].max() == 1
    marks = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert marks["R"] < 48 < marks["L"]


def test_page_in_a_browser(demo, tmp_path):
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
    subprocess.run(shot, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (1400, 1100)
    black = (pixels < 10).mean(axis=1)
    assert black.max() > 0.5  # the mosaics' black ground is drawn
    dump = subprocess.run(
        [*call, "--dump-dom", page.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert len(re.findall(r'<section id="run-\d"', dump)) == 4
    for section in ("summary", "runs", "methods", "errors", "provenance"):
        assert f'<section id="{section}"' in dump
