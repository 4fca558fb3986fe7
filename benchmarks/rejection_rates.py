"""How often the group level finds something at p <= 0.05 in data without it.

    python -m benchmarks.rejection_rates [--simulations 1000]

Valid tests reject in 5 % of the data sets. For each scenario, the table gives the share for every
metric; with 1,000 data sets, 95 % of the shares of a valid test lie between 3.6 and 6.4 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from swift_bids.group.columns import Target
from swift_bids.group.identification import identification
from swift_bids.group.probes import probe, scores
from swift_bids.group.probes.features import Components, ConnectivityMatrices, FeatureSet, Table
from swift_bids.group.probes.harmonise import Harmonised

N_FEATURES, N_PERMUTATIONS = 20, 99


def runs_of(n_runs: np.ndarray) -> np.ndarray:
    """Number of the participant of each run."""
    return np.repeat(np.arange(len(n_runs)), n_runs)


def sites(rng: np.random.Generator, n: int = 40) -> tuple[np.ndarray, pd.Series, pd.DataFrame]:
    """Ten sites, two runs of each participant, an effect of the site alone."""
    people = runs_of(np.full(n, 2))
    site = people * 10 // n
    x = 2 * rng.standard_normal((10, N_FEATURES))[site] + noise(rng, len(people))
    return x, pd.Series(people), pd.DataFrame({"site": site.astype(str)})


def tasks(rng: np.random.Generator) -> tuple[np.ndarray, pd.Series, pd.DataFrame]:
    """Half of the participants do each of two tasks."""
    people = runs_of(np.full(40, 2))
    task = people % 2
    x = 2 * rng.standard_normal((2, N_FEATURES))[task] + noise(rng, len(people))
    return x, pd.Series(people), pd.DataFrame({"task": task.astype(str)})


def unequal_runs(rng: np.random.Generator) -> tuple[np.ndarray, pd.Series, pd.DataFrame]:
    """One to five runs of each participant, at three sites of different sizes."""
    n_runs = rng.integers(1, 6, 30)
    people = runs_of(n_runs)
    site = np.sort(rng.choice(3, 30, p=[0.6, 0.3, 0.1]))[people]
    x = 2 * rng.standard_normal((3, N_FEATURES))[site] + noise(rng, len(people))
    return x, pd.Series(people), pd.DataFrame({"site": site.astype(str)})


def two_sessions(rng: np.random.Generator) -> tuple[np.ndarray, pd.Series, pd.DataFrame]:
    """Two sessions on different scanners; some participants have only one of them."""
    people = runs_of(np.full(40, 2))
    session = np.tile([0, 1], 40)
    kept = rng.random(80) < 0.85
    x = 2 * rng.standard_normal((2, N_FEATURES))[session] + noise(rng, 80)
    return x[kept], pd.Series(people[kept]), pd.DataFrame({"session": session[kept].astype(str)})


def families(rng: np.random.Generator) -> tuple[np.ndarray, pd.Series, pd.DataFrame]:
    """Families of two to four, whose members are alike; `--group-by family`."""
    family = np.repeat(np.arange(14), rng.integers(2, 5, 14))
    people = runs_of(np.full(len(family), 2))
    x = rng.standard_normal((14, N_FEATURES))[family[people]] + noise(rng, len(people))
    return x, pd.Series(people), pd.DataFrame({"family": family[people].astype(str)})


def large(rng: np.random.Generator) -> tuple[np.ndarray, pd.Series, pd.DataFrame]:
    """200 participants at ten sites."""
    return sites(rng, 200)


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, N_FEATURES))


Probe = tuple[FeatureSet | np.ndarray, np.ndarray, int, np.ndarray | None, np.ndarray | None]


def number(rng: np.random.Generator, n: int = 40) -> Probe:
    """A number that has nothing to do with the features: (features, target, classes, ...)."""
    return noise(rng, n), rng.standard_normal(n), 0, None, None


def twenty(rng: np.random.Generator) -> Probe:
    """A number, 20 participants."""
    return number(rng, 20)


def two_hundred(rng: np.random.Generator) -> Probe:
    """A number, 200 participants."""
    return number(rng, 200)


def rare_class(rng: np.random.Generator) -> Probe:
    """Two classes, 50 and 10 participants."""
    return noise(rng, 60), rng.permutation(np.repeat([0, 1], [50, 10])), 2, None, None


def three_classes(rng: np.random.Generator) -> Probe:
    """Three classes of 30, 20 and 10."""
    return noise(rng, 60), rng.permutation(np.repeat([0, 1, 2], [30, 20, 10])), 3, None, None


def covariate(rng: np.random.Generator) -> Probe:
    """Features and a number that share a covariate, which is given."""
    c = rng.standard_normal((60, 1))
    return noise(rng, 60) + c, c[:, 0] + rng.standard_normal(60), 0, c, None


def grouped_sites(rng: np.random.Generator) -> Probe:
    """Five sites with effects on the features and on a number; `--group-by site`."""
    site = np.repeat(np.arange(5), 12)
    x = noise(rng, 60) + 2 * rng.standard_normal((5, N_FEATURES))[site]
    return x, rng.standard_normal(5)[site] + rng.standard_normal(60), 0, None, site


def grouped_families(rng: np.random.Generator) -> Probe:
    """Families of one to three with common effects on features and two classes."""
    family = np.repeat(np.arange(40), rng.integers(1, 4, 40))
    x = noise(rng, len(family)) + rng.standard_normal((40, N_FEATURES))[family]
    liability = rng.standard_normal(40)[family] + rng.standard_normal(len(family))
    return x, (liability > np.median(liability)).astype(int), 2, None, family


def sites_of_patients(rng: np.random.Generator) -> Probe:
    """Twenty sites with patients only or controls only, and effects of the site; `--group-by`."""
    site = np.repeat(np.arange(20), 4)
    x = noise(rng, 80) + rng.standard_normal((20, N_FEATURES))[site]
    return x, rng.permutation(np.repeat([0, 1], 10))[site], 2, None, site


def connectivity(rng: np.random.Generator) -> Probe:
    """Correlation, partial correlation and tangent of six parcels, between which folds choose."""
    mixing = np.eye(6) + 0.2 * rng.standard_normal((40, 6, 6))
    signals = mixing @ rng.standard_normal((40, 6, 60))
    matrices = ConnectivityMatrices(signals @ signals.transpose(0, 2, 1) / 60)
    return matrices, rng.permutation(np.repeat([0, 1], 20)), 2, None, None


def components(rng: np.random.Generator) -> Probe:
    """Principal components of 200 features, of which folds choose the number."""
    x = rng.standard_normal((50, 30)) @ rng.standard_normal((30, 200))
    return Components(x), rng.standard_normal(50), 0, None, None


def harmonised(rng: np.random.Generator) -> Probe:
    """Three sites with effects on the features and on a number; `--harmonise site`."""
    site = np.arange(60) % 3
    x = noise(rng, 60) + 2 * rng.standard_normal((3, N_FEATURES))[site]
    y = rng.standard_normal(3)[site] + rng.standard_normal(60)
    return Harmonised(Table(x), site), y, 0, None, None


def harmonised_families(rng: np.random.Generator) -> Probe:
    """Two sites, families of one to three with effects, harmonised; `--group-by family`."""
    family = np.repeat(np.arange(40), rng.integers(1, 4, 40))
    site = rng.permutation(np.arange(40) % 2)[family]
    x = noise(rng, len(family)) + 2 * rng.standard_normal((2, N_FEATURES))[site]
    x += rng.standard_normal((40, N_FEATURES))[family]
    y = 2 * site + rng.standard_normal(40)[family] + rng.standard_normal(len(family))
    return Harmonised(Table(x), site), y, 0, None, family


IDENTIFICATION = (sites, tasks, unequal_runs, two_sessions, families, large)
PROBES = (
    number,
    twenty,
    two_hundred,
    rare_class,
    three_classes,
    covariate,
    grouped_sites,
    grouped_families,
    sites_of_patients,
    connectivity,
    components,
    harmonised,
    harmonised_families,
)


def p_of_identification(scenario: Callable, seed: int) -> pd.Series:
    """p by metric."""
    x, people, conditions = scenario(np.random.default_rng(seed))
    table = identification({"embedding": x}, people, N_PERMUTATIONS, seed, conditions=conditions)
    return table.set_index("metric")["p"]


def p_of_probe(scenario: Callable, seed: int) -> pd.Series:
    """p by metric of the embedding."""
    x, y, n_classes, covariates, groups = scenario(np.random.default_rng(seed))
    sites = x.sites if isinstance(x, Harmonised) else None
    target = Target("y", tuple(map(str, range(n_classes))), y.astype(float))
    table, reason = probe.fit_probe(
        target, {"embedding": x}, covariates, groups, N_PERMUTATIONS, sites
    )
    if reason:
        return pd.Series(dtype=float)
    return table[table["features"] == "embedding"].set_index("metric")["p"]


def rates(n_simulations: int) -> Iterator[tuple[str, pd.Series]]:
    """Name of each scenario, and the share of p <= 0.05 for each metric."""
    probe.N_REPETITIONS, scores.N_BOOTSTRAPS = 1, 2  # p comes from the first repetition
    for scenarios, p_values in ((IDENTIFICATION, p_of_identification), (PROBES, p_of_probe)):
        for scenario in scenarios:
            p = pd.DataFrame([p_values(scenario, seed) for seed in range(n_simulations)])
            yield scenario.__name__, (p <= 0.05).where(p.notna()).astype(float).mean()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rejection_rates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--simulations", type=int, default=1000)
    for name, shares in rates(parser.parse_args().simulations):
        print(f"{name:18s}", ", ".join(f"{metric} {share:.1%}" for metric, share in shares.items()))


if __name__ == "__main__":
    main()
