"""The carpet plot: its rows, its time axis, its marks and its size."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from swift_bids.geometry.frames import MODEL_SHAPE
from swift_bids.geometry.resample_time import Series
from swift_bids.reports.carpet import carpet_figure, save_in_few_colours
from swift_bids.steps.chunk import plan_chunks
from swift_bids.steps.volume_faults import EMPTY, Faults
from swift_bids.steps.volume_signals import Volumes

#: A brain of 40 x 40 x 40 voxels.
INDEX = np.ravel_multi_index(np.indices((40, 40, 40)).reshape(3, -1) + 20, MODEL_SHAPE)


def made_volumes(n_volumes, seed=0):
    rng = np.random.default_rng(seed)
    columns = np.arange(0, INDEX.size, 213)
    carpet = rng.uniform(500, 1500, len(columns)) + rng.standard_normal((n_volumes, len(columns)))
    return Volumes(
        global_signal=carpet.mean(axis=1),
        dvars=np.ones(n_volumes),
        std_dvars=np.ones(n_volumes),
        faults=Faults.none(n_volumes),
        lost_part="",
        n_unsteady=0,
        carpet=carpet.astype(np.float32),
        carpet_columns=columns,
    )


def drawn(volumes, tr=0.8, first_volume=0, displacement=0.1):
    n_volumes = len(volumes.carpet)
    run = SimpleNamespace(n_volumes=n_volumes, repetition_time=tr, first_volume=first_volume)
    table = pd.DataFrame(
        {
            "global_signal": volumes.global_signal,
            "std_dvars": volumes.std_dvars,
            "framewise_displacement": np.full(n_volumes, displacement),
        }
    )
    series = Series(n_volumes, tr, first_volume, tr)
    chunks = plan_chunks(series, faults=volumes.faults)
    return carpet_figure(run, volumes, table, chunks, INDEX, 0.5)


def rows_of(figure):
    return np.asarray(figure.axes[-1].images[0].get_array())


def test_deep_voxels_are_at_the_top():
    volumes = made_volumes(60)
    inside = np.abs(np.indices((40, 40, 40)).reshape(3, -1) - 19.5).max(axis=0) < 12
    carpet = volumes.carpet.copy()
    carpet[30:, inside[volumes.carpet_columns]] += 50  # a change of the deep voxels only
    change = np.diff(rows_of(drawn(replace(volumes, carpet=carpet)))[:, 29:31], axis=1)[:, 0]
    n_deep = int(inside[volumes.carpet_columns].sum())
    assert (change[:n_deep] > 1).all()
    assert np.median(change[n_deep:]) < 1


def test_all_panels_share_a_time_axis_in_seconds():
    figure = drawn(made_volumes(60), tr=2.0)
    assert {axis.get_xlim() for axis in figure.axes} == {(0, 120)}
    left, right, bottom, top = figure.axes[-1].images[0].get_extent()
    assert (left, right, bottom, top) == (0, 120, 301, 0)
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == ["0", "1", "2"]


def test_a_faulty_volume_is_marked_and_does_not_grey_the_others():
    volumes = made_volumes(60)
    carpet = volumes.carpet.copy()
    carpet[10] = np.nan
    codes = np.zeros(60, np.int8)
    codes[10] = EMPTY
    faults = replace(Faults.none(60), codes=codes)
    figure = drawn(replace(volumes, carpet=carpet, faults=faults))
    rows = rows_of(figure)
    assert (rows[:, 10] < -100).all()
    others = np.delete(rows, 10, axis=1)
    assert others.std() == pytest.approx(1, abs=0.1)
    for axis in figure.axes[1:]:
        (mark,) = [p for p in axis.patches if p.get_width() == pytest.approx(0.8)]
        assert mark.get_x() == pytest.approx(8.0)
    (triangle,) = figure.axes[0].lines
    assert triangle.get_xdata() == pytest.approx([8.0])


def test_dummy_scans_are_marked_and_do_not_decide_on_the_scales():
    volumes = made_volumes(60)
    carpet = volumes.carpet.copy()
    carpet[:3] *= 2
    volumes = replace(volumes, carpet=carpet, global_signal=carpet.mean(axis=1))
    figure = drawn(volumes, first_volume=3)
    assert rows_of(figure)[:, 3:].std() == pytest.approx(1, abs=0.1)
    low, high = figure.axes[1].get_ylim()
    assert volumes.global_signal[3:].max() < high < 1.01 * volumes.global_signal[3:].max()
    assert low == volumes.global_signal.min()
    assert [p.get_width() for p in figure.axes[1].patches] == [pytest.approx(2.4)]


def test_long_runs_are_averaged_so_that_no_volume_is_left_out():
    volumes = made_volumes(1200)
    carpet = volumes.carpet.copy()
    carpet[601] += 100
    rows = rows_of(drawn(replace(volumes, carpet=carpet)))
    assert rows.shape == (301, 600)
    assert (rows[:, 300] > 20).all()


@pytest.mark.parametrize("n_volumes", [24, 490, 1200])
def test_the_picture_is_small_and_has_its_colours(tmp_path, n_volumes):
    """White noise takes more bytes than any real run."""
    file = tmp_path / "carpet.png"
    save_in_few_colours(drawn(made_volumes(n_volumes)), file)
    assert file.stat().st_size < 150_000
    picture = Image.open(file)
    assert picture.size == (1200, 740)
    colours = {colour for _, colour in picture.convert("RGB").getcolors()}
    assert {(255, 255, 255), (0, 0, 0), (0, 114, 178), (213, 94, 0)} <= colours


def test_unknown_motion_is_said():
    figure = drawn(made_volumes(60), displacement=np.nan)
    assert [text.get_text() for text in figure.axes[3].texts] == ["unknown"]
