"""swift-bids finetune OUTPUT_DIR --target COLUMN: its flags."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from swift_bids.cli import values as flag_types
from swift_bids.cli.embedded_runs import (
    add_network,
    add_run_filter,
    choose_device,
    embed_again,
    parse_command,
    run_filter_of,
    weights_of_call,
)
from swift_bids.finetune.settings import FREEZE, FineTuneSettings, TrainingSettings
from swift_bids.network.precision import PRECISIONS

_EPILOG = """\
The network of output_dir is trained to predict a column of its participants.tsv, and written to
output_dir/finetuned/NAME: weights for --weights, a head for swift-bids predict and explain, a model
card, and finetune.html, which compares it with the probes of its embedding and with baselines.
Runs that were embedded without --keep-matrix are embedded again first. A call that was interrupted
continues when it is repeated. Defaults of the training are those of the original's sample script.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `swift-bids finetune`."""
    parser = argparse.ArgumentParser(
        prog="swift-bids finetune",
        description="Train the network further on a column of participants.tsv.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("output_dir", type=Path, help="outputs of the participant level")
    parser.add_argument(
        "--target", required=True, metavar="COLUMN", help="column of participants.tsv to learn"
    )
    parser.add_argument(
        "--group-by",
        metavar="COLUMN",
        help="keep participants with the same value, such as the site, together in the training or "
        "the test set",
    )
    parser.add_argument(
        "--missing-code",
        nargs="+",
        metavar="CODE",
        default=(),
        help="contents of participants.tsv that stand for missing values (n/a always does)",
    )
    parser.add_argument("--name", help="name of the folder in finetuned/ (default: the column)")
    parser.add_argument(
        "--folds",
        type=_folds,
        default=5,
        metavar="N",
        help="folds of the cross-validation, each of which trains a network of its own (default: "
        "5; 0: no scores)",
    )
    add_run_filter(parser)
    add_network(parser)
    _add_training_flags(parser)
    return parser


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    training = parser.add_argument_group("training")
    training.add_argument(
        "--freeze",
        choices=FREEZE,
        default="none",
        help="train everything (none), the last stage and the head (stages), or the head alone "
        "(backbone)",
    )
    training.add_argument(
        "--epochs",
        type=flag_types.positive,
        default=TrainingSettings.epochs,
        metavar="N",
        help="passes over the training chunks, at most (default: 10)",
    )
    training.add_argument(
        "--patience",
        type=flag_types.positive,
        default=TrainingSettings.patience,
        metavar="N",
        help="epochs without a smaller validation loss after which to stop (default: 5)",
    )
    training.add_argument(
        "--batch-size",
        type=flag_types.positive,
        default=TrainingSettings.batch_size,
        metavar="N",
        help="chunks for each step of the optimiser (default: 8)",
    )
    training.add_argument(
        "--micro-batch",
        type=flag_types.positive,
        metavar="N",
        help="chunks of a batch that go through the network together; fewer take less memory "
        "(default: 1 on the CPU, the whole batch on a GPU)",
    )
    training.add_argument(
        "--activation-checkpointing",
        action="store_true",
        help="compute activations twice instead of keeping them, which takes less memory and a "
        "third more time",
    )
    training.add_argument(
        "--learning-rate",
        type=_rate,
        default=TrainingSettings.learning_rate,
        metavar="RATE",
        help="largest learning rate of AdamW (default: 5e-5)",
    )
    training.add_argument(
        "--weight-decay",
        type=_rate,
        default=TrainingSettings.weight_decay,
        metavar="DECAY",
        help="of AdamW (default: 0.01)",
    )
    training.add_argument("--seed", type=_whole, default=0, help="default: 0")
    training.add_argument("--precision", choices=PRECISIONS, default="float32")
    training.add_argument(
        "--tensorboard", action="store_true", help="write the curves for TensorBoard, too"
    )


def run_finetune_command(argv: Sequence[str], app: Callable[[Sequence[str]], int]) -> int:
    """Run `swift-bids finetune`.

    Parameters
    ----------
    app
        The app, to embed runs again whose matrix was not kept.

    Raises
    ------
    UsageError
        The embeddings, the column or the weights cannot be used.
    """
    parser = build_parser()
    args = parse_command(parser, argv)
    name = args.name or re.sub(r"[^A-Za-z0-9]+", "-", args.target).strip("-")
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        parser.error(f"--name {name}: give a name of letters, digits, dots and hyphens")
    from swift_bids.finetune.level import run_finetune

    output_dir, device = args.output_dir.absolute(), choose_device(args)
    with weights_of_call(output_dir, args.weights) as weights:
        settings = FineTuneSettings(
            output_dir=output_dir,
            run_filter=run_filter_of(args),
            target=args.target,
            group_by=args.group_by,
            missing_codes=args.missing_code,
            name=name,
            weights=weights,
            folds=args.folds,
            device=device,
            tensorboard=args.tensorboard,
            training=TrainingSettings(
                epochs=args.epochs,
                patience=args.patience,
                batch_size=args.batch_size,
                micro_batch=args.micro_batch or (1 if device == "cpu" else args.batch_size),
                learning_rate=args.learning_rate,
                weight_decay=args.weight_decay,
                freeze=args.freeze,
                precision=args.precision,
                activation_checkpointing=args.activation_checkpointing,
                seed=args.seed,
            ),
        )
        return run_finetune(settings, partial(embed_again, output_dir, app=app))


def _whole(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def _folds(text: str) -> int:
    if _whole(text) == 1:
        raise argparse.ArgumentTypeError("1 fold cannot be held out; give 0, or 2 or more")
    return int(text)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to below 1")
    return value
