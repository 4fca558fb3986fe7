"""Each fault of volumes is found where it is, and clean runs have none."""

import numpy as np
import pytest

from swift_bids.steps.volume_faults import FAULTS, find_faults

N_VOLUMES, N_VOXELS = 60, 400


def made_run(seed=0, n_volumes=N_VOLUMES):
    """(volume, voxel) with white noise, physiology that all voxels share, and a drift of 3 %."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(n_volumes)
    for volume in range(1, n_volumes):
        shared[volume] += 0.7 * shared[volume - 1]
    times = np.linspace(0, 1, n_volumes)
    drift = rng.uniform(-0.03, 0.03) * times + 0.005 * np.sin(6 * times + rng.uniform(0, 6))
    anatomy = rng.uniform(500, 1500, N_VOXELS)
    noise = rng.standard_normal((n_volumes, N_VOXELS))
    return anatomy * (1 + drift + 0.004 * shared)[:, None] + 0.02 * anatomy * noise


def faults_of(values, first_volume=0):
    """Faults as {name: volumes}, with `step` among them."""
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(values)
        n_known = known.sum(axis=1)
        means = np.where(n_known > 0, np.nansum(values, axis=1) / np.maximum(n_known, 1), np.nan)
        change = np.diff(values, axis=0, prepend=np.nan)
        n_both = (~np.isnan(change)).sum(axis=1)
        squares = np.nansum(np.square(change), axis=1) / np.maximum(n_both, 1)
    changes = np.where(n_both > 0, np.sqrt(squares), np.nan)
    faults, lost = find_faults(values.astype(np.float32), means, changes, first_volume)
    found = {
        name: np.flatnonzero(faults.codes == code).tolist()
        for code, name in enumerate(FAULTS, start=1)
    } | {"step": faults.steps.tolist()}
    return {name: volumes for name, volumes in found.items() if volumes}, faults, lost


def changed(volumes, change):
    values = made_run()
    values[volumes] = change(values[volumes])
    return values


def with_part(share, factor):
    def change(values):
        values[:, : int(share * N_VOXELS)] *= factor
        return values

    return change


CASES = {
    "an empty volume": (changed([8], lambda v: v * np.nan), {"empty": [8]}),
    "several empty volumes": (
        changed([0, 8, 9, 59], lambda v: v * np.nan),
        {"empty": [0, 8, 9, 59]},
    ),
    "a volume of noise": (changed([8], lambda v: v * 0.01), {"empty": [8]}),
    "most volumes are empty": (
        changed(slice(20, 60), lambda v: v * np.nan),
        {"empty": [*range(20, 60)]},
    ),
    "repeated volumes": (changed(slice(20, 30), lambda v: v[:1]), {"repeated": [*range(21, 30)]}),
    "repeated after interpolation": (
        changed(slice(20, 30), lambda v: v[:1] + 0.001 * (v - v[:1])),
        {"repeated": [*range(21, 30)]},
    ),
    "a bright volume": (changed([11], lambda v: v * 3), {"outlier": [11]}),
    "a dim volume at the end": (changed([59], lambda v: v * 0.85), {"outlier": [59]}),
    "unsteady volumes": (
        changed(slice(0, 4), lambda v: v * np.array([[2], [1.6], [1.3], [1.15]])),
        {"outlier": [0, 1, 2, 3]},
    ),
    "a missing slab": (changed([5, 30], with_part(0.05, np.nan)), {"incomplete": [5, 30]}),
    "a slab that is nearly missing": (changed([5], with_part(0.05, 0.3)), {"incomplete": [5]}),
    "a part that is always missing": (changed(slice(0, 60), with_part(0.4, np.nan)), {}),
    "a step": (changed(slice(25, 60), lambda v: v * 1.08), {"step": [25]}),
    "a step down near the end": (changed(slice(50, 60), lambda v: v * 0.9), {"step": [50]}),
    "a step and a bright volume": (
        changed(slice(25, 60), lambda v: v * np.where(np.arange(35) == 9, 2, 1.1)[:, None]),
        {"outlier": [34], "step": [25]},
    ),
    "a steep drift": (made_run() * np.linspace(1, 1.3, N_VOLUMES)[:, None], {}),
    "demeaned data": (made_run() - made_run().mean(axis=0), {}),
    "demeaned data with an empty volume": (
        changed([8], lambda v: v * np.nan) - made_run().mean(axis=0),
        {"empty": [8]},
    ),
}


@pytest.mark.parametrize(("values", "expected"), CASES.values(), ids=CASES)
def test_faults_are_found_where_they_are(values, expected):
    assert faults_of(values)[0] == expected


def test_sizes_of_an_outlier_and_of_a_step():
    _, faults, _ = faults_of(changed([11], lambda v: v * 3))
    assert faults.deviations[11] == pytest.approx(2, abs=0.1)
    _, faults, _ = faults_of(changed(slice(25, 60), lambda v: v * 1.08))
    assert faults.step_sizes == pytest.approx([0.08], abs=0.02)


def test_which_voxels_have_lost_their_signal():
    _, _, lost = faults_of(changed([5], with_part(0.05, np.nan)))
    assert np.flatnonzero(lost).tolist() == [*range(20)]


def test_dummy_scans_have_no_faults_and_do_not_count():
    values = changed(slice(0, 4), lambda v: v * np.array([[2], [1.6], [1.3], [1.15]]))
    found, faults, _ = faults_of(values, first_volume=4)
    assert found == {}
    assert np.isnan(faults.deviations[:4]).all()


def test_what_counts_as_not_measured():
    values = changed([8], lambda v: v * np.nan)
    values[20] = values[19]
    values[30] *= 2
    faults = faults_of(values)[1]
    assert np.flatnonzero(faults.not_measured).tolist() == [8, 20]
    assert np.flatnonzero(faults.any).tolist() == [8, 20, 30]


@pytest.mark.parametrize("n_volumes", [1, 2, 20, 300])
def test_clean_runs_have_no_faults(n_volumes):
    found = [faults_of(made_run(seed, n_volumes))[0] for seed in range(100)]
    assert [faults for faults in found if faults] == []
