"""Each variant of `--variant`: its network, and how that network was trained to read a run.

The steps, the outputs and the group level take every number of a network from here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    """A network that embeds chunks.

    Attributes
    ----------
    title, label
        Its name, and how file names (`desc-<label>`) and columns (`<label>000`) call it.
    work
        What it is cited for, in a list of works to cite; the work.
    licence
        Licence of the released weights.
    chunk_volumes
        Volumes of a chunk.
    token_shape
        (feature, x, y, z) of the tokens of a volume.
    """

    title: str
    label: str
    work: tuple[str, str]
    licence: str
    chunk_volumes: int
    token_shape: tuple[int, int, int, int]

    @property
    def tokens(self) -> str:
        """How many tokens a chunk has, in words: `2 x 2 x 2 x 20`."""
        return " x ".join(map(str, [*self.token_shape[1:], self.chunk_volumes]))


@dataclass(frozen=True)
class TimeRule:
    """How a network's preprocessing brought runs to one TR.

    Attributes
    ----------
    target_tr, tolerance
        TR in s to which runs are interpolated linearly, unless theirs differs by less than the
        tolerance.
    centred
        False: the series starts with the run's first volume. True: the run is divided into as many
        equal parts as fit best, and a volume is interpolated at the middle of each (the rule of
        `torch.nn.functional.interpolate`).
    """

    target_tr: float
    tolerance: float
    centred: bool


@dataclass(frozen=True)
class Backbone:
    """A variant.

    Attributes
    ----------
    network, time
        Its network, and how its runs were brought to one TR.
    frame
        Name of the position of the FSL 2 mm grid in the input, in
        `swift_bids.geometry.frames.FRAMES`.
    masks
        Kinds of brain masks, the preferred one first.
    clipped
        Whether negative values became 0 before the z-scores.
    quantisations
        How the z-scores were stored, the default first: `none` (float16) or `int8`.
    """

    network: Network
    time: TimeRule
    frame: str
    masks: tuple[str, str]
    clipped: bool
    quantisations: tuple[str, ...]


#: Volumes of a chunk of both networks; the default of functions that take it.
CHUNK_VOLUMES = 20
SWIFT = Network(
    title="SwiFT",
    label="swift",
    work=(
        "SwiFT, a 4D Swin Transformer for functional MRI",
        "Kim P. Y., Kwon J., Joo S., Bae S., Lee D., Jung Y., Yoo S., Cha J., Moon T. (2023). "
        "SwiFT: Swin 4D fMRI Transformer. Advances in Neural Information Processing Systems 36. "
        "arXiv:2307.05916",
    ),
    licence="Apache-2.0",
    chunk_volumes=CHUNK_VOLUMES,
    token_shape=(288, 2, 2, 2),
)
NEUROSTORM = Network(
    title="NeuroSTORM",
    label="neurostorm",
    work=(
        "NeuroSTORM, a 4D network of state-space models for functional MRI",
        "Wang C., Jiang Y., Peng Z., Li C., Bang C., Zhao L., Fu W., Lv J., Sepulcre J., Yang C. "
        "et al. (2026). Towards a general-purpose foundation model for functional MRI analysis. "
        "Nature Biomedical Engineering",
    ),
    licence="MIT",
    chunk_volumes=CHUNK_VOLUMES,
    token_shape=(288, 2, 2, 2),
)
#: Runs at the TRs of the training data (HCP 0.72 s, UK Biobank 0.735 s, ABCD 0.8 s) stay as they
#: are; others are interpolated, as in published evaluations (Brainmarks, arXiv:2510.13768).
_SWIFT_TIME = TimeRule(target_tr=0.8, tolerance=0.1, centred=False)
#: NeuroSTORM's preprocessing (preprocessing_volume.py, CUHK-AIM-Group/NeuroSTORM) interpolated all
#: runs.
_NEUROSTORM_TIME = TimeRule(target_tr=0.8, tolerance=0.0, centred=True)
DEFAULT_VARIANT = "contrastive"
#: Choices of `--quantisation`; `auto` is the first one of the variant.
QUANTISATIONS = ("auto", "none", "int8")
#: `contrastive` was trained on HCP, ABCD and UK Biobank, `hcp-sex` on HCP, whose masks are all
#: anatomical. NeuroSTORM stored z-scores as float16 until May 2026, and as int8 since.
BACKBONES = {
    "contrastive": Backbone(
        SWIFT, _SWIFT_TIME, "ukb", ("bold", "anat"), clipped=False, quantisations=("none",)
    ),
    "hcp-sex": Backbone(
        SWIFT, _SWIFT_TIME, "hcp", ("anat", "bold"), clipped=False, quantisations=("none",)
    ),
    "neurostorm-mae": Backbone(
        NEUROSTORM,
        _NEUROSTORM_TIME,
        "neurostorm",
        ("bold", "anat"),
        clipped=True,
        quantisations=("none", "int8"),
    ),
}
#: Every network, by the label in its file names.
NETWORKS = {backbone.network.label: backbone.network for backbone in BACKBONES.values()}


def feature_names(label: str, n_features: int) -> list[str]:
    """Return the columns of the features of a network: `swift000`, `swift001`, ..."""
    return [f"{label}{number:03d}" for number in range(n_features)]


def network_of_feature(column: str) -> Network | None:
    """Return the network of whose features a column is one; None for other columns."""
    label, number = column[:-3], column[-3:]
    return NETWORKS.get(label) if number.isdecimal() else None
