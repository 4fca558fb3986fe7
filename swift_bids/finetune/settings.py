"""The settings of a fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swift_bids.inputs.run_filter import RunFilter

#: Choices of `--freeze`: nothing, all stages but the last, or the whole network.
FREEZE = ("none", "stages", "backbone")


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; changes of these change the result.

    The defaults are those of the original's sample script (github.com/Transconnectome/SwiFT).

    Attributes
    ----------
    epochs, patience
        Most passes over the training chunks, and passes without a smaller validation loss after
        which training stops.
    batch_size, micro_batch
        Chunks for each step of the optimiser, and how many of them go through the network together.
    learning_rate, weight_decay
        Of AdamW. The rate rises linearly over the first 5 % of the steps, then falls to 0 as a
        cosine.
    freeze
        One of `FREEZE`.
    precision
        One of `swift_bids.network.precision.PRECISIONS`.
    activation_checkpointing
        Whether to compute activations again for the gradients instead of keeping them.
    seed
        Of the split for early stopping, the order of the chunks, and dropout.
    """

    epochs: int = 10
    patience: int = 5
    batch_size: int = 8
    micro_batch: int = 1
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    freeze: str = "none"
    precision: str = "float32"
    activation_checkpointing: bool = False
    seed: int = 0


@dataclass(frozen=True)
class FineTuneSettings:
    """A command `swift-bids finetune`.

    Attributes
    ----------
    output_dir, run_filter
        Outputs of the participant level, and which of their runs to use.
    target, group_by, missing_codes
        Column of participants.tsv to learn; column whose values stay together in a fold; cells that
        stand for missing values.
    name
        Name of the folder in `finetuned/`.
    weights
        Weights from which to start, as `--weights` takes them; None: those of the variant.
    folds
        Parts of the cross-validation that measures the predictions; 0: not measured.
    device
        Torch device.
    tensorboard
        Whether to write the curves for TensorBoard, too.
    """

    output_dir: Path
    run_filter: RunFilter
    target: str
    group_by: str | None
    missing_codes: Sequence[str]
    name: str
    weights: str | None
    folds: int
    device: str
    tensorboard: bool
    training: TrainingSettings
