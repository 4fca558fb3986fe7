"""Features of several sites -> features without the effects of the sites (ComBat)."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from swift_bids.base.errors import UsageError
from swift_bids.group.probes.features import FeatureSet


def check_installed() -> None:
    """Refuse `--harmonise` without the package that does it.

    Raises
    ------
    UsageError
        It is not installed.
    """
    if importlib.util.find_spec("combatlearn") is None:
        raise UsageError(
            "--harmonise needs the package combatlearn, which is not installed; install it with: "
            "pip install --no-deps combatlearn"
        )


@dataclass(frozen=True)
class Harmonised:
    """Features whose means and variances are made alike between sites, by the training part.

    ComBat (Johnson et al. 2007; Fortin et al. 2018) estimates location and scale of each site and
    shrinks them towards their mean over features. It does not know the target, so it also removes
    the part of an effect that goes along with the site.

    Attributes
    ----------
    features
        Any set of features.
    sites
        (participant,) index of the site.
    """

    features: FeatureSet
    sites: np.ndarray

    @property
    def n_features(self) -> int:
        """Number of features before harmonisation, which does not change it."""
        return self.features.n_features

    def select(self, rows: np.ndarray) -> Harmonised:
        """The same for some of the participants."""
        return Harmonised(self.features.select(rows), self.sites[rows])

    def versions(self, train: np.ndarray) -> dict[str, np.ndarray]:
        """Versions of the features, harmonised."""
        found = self.features.versions(train)
        return {name: harmonise(values, self.sites, train) for name, values in found.items()}


def harmonise(values: np.ndarray, sites: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Fit ComBat to the training participants and apply it to all, (participant, feature)."""
    from combatlearn import ComBat

    varies = np.ptp(values[train], axis=0) > 0
    if not varies.any():
        return values
    table = pd.DataFrame(values[:, varies].astype(np.float64))
    # about unequal sizes of the sites; not catch_warnings, which threads must not share
    warnings.filterwarnings("ignore", module="combatlearn")
    model = ComBat(batch=pd.Series(sites).astype(str)).fit(table.iloc[train])
    harmonised = values.astype(np.float64)
    harmonised[:, varies] = model.transform(table).to_numpy()
    return harmonised
