"""swift-bids weights {fetch,convert,verify}: prepare weights for machines without internet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from swift_bids.network.checkpoint import read_backbone
from swift_bids.network.known_weights import HUB_IDS, digests_of, recognise
from swift_bids.network.stored_weights import INDEX, files_of, split_choice
from swift_bids.network.weights import find_weights, hub_file

ACTIONS = ("fetch", "convert", "verify")


def build_parser() -> argparse.ArgumentParser:
    """The command line of `swift-bids weights`."""
    parser = argparse.ArgumentParser(
        prog="swift-bids weights", description="Fetch, convert and verify weights of the networks."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    fetch = actions.add_parser("fetch", help="download bundles ahead of time")
    fetch.add_argument(
        "ids",
        nargs="*",
        default=list(HUB_IDS.values()),
        metavar="ID",
        help="Hub ids (default: the bundle of each variant)",
    )
    fetch.add_argument("--revision", help="branch, tag or commit (default: the registered one)")
    fetch.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="write to FOLDER/<name>, to copy elsewhere (default: the Hugging Face cache)",
    )
    convert = actions.add_parser("convert", help="convert a checkpoint to a Hub bundle")
    convert.add_argument("checkpoint", help="its file, or FILE@NETWORK for one of its networks")
    convert.add_argument("folder", type=Path)
    verify = actions.add_parser("verify", help="check weights and print what they are")
    verify.add_argument("source", help="Hub id, folder or file, as for --weights")
    verify.add_argument("--revision")
    return parser


def run_weights(argv: Sequence[str]) -> int:
    """Run `swift-bids weights`; raise UsageError if the weights cannot be used."""
    args = build_parser().parse_args(argv)
    from swift_bids.network.bundles import convert_checkpoint

    if args.action == "fetch":
        for hub_id in args.ids:
            if args.to is None:  # looking for them in the cache downloads them
                verify_weights(hub_id, args.revision)
            else:
                folder = args.to / hub_id.rpartition("/")[2]
                verify_weights(str(hub_file(hub_id, args.revision, folder)))
    elif args.action == "convert":
        verify_weights(str(convert_checkpoint(args.checkpoint, args.folder)))
    else:
        verify_weights(args.source, args.revision)
    return 0


def verify_weights(source: str, revision: str | None = None) -> None:
    """Check weights as a run would, and print configuration, digests and provenance."""
    from swift_bids.network.load import class_with

    is_file = Path(source).is_file() and not source.endswith(INDEX)
    if is_file:  # first, since a damaged file cannot be read
        print_digests(Path(source))
    weights = find_weights(source, random=None, revision=revision)
    backbone = read_backbone(weights.file, class_with)
    file = split_choice(weights.file)[0]
    if not is_file:
        print_digests(*files_of(file))
    parameters = sum(tensor.numel() for tensor in backbone.state.values())
    print(f"name        {weights.name}" + (f" at {weights.revision}" if weights.revision else ""))
    print(f"tensors     {len(backbone.state)}, {parameters:,} parameters")
    print(f"not used    {', '.join(backbone.unused) or 'none'}")
    print(f"random      {'YES: their embeddings mean nothing' if weights.random else 'no'}")
    for key, value in (backbone.config | backbone.about).items():
        print(f"  {key:20} {value}")


def print_digests(*files: Path) -> None:
    """Print what identifies a file (or several, as one), and which released file it is."""
    digests = digests_of(*files)
    known = recognise(digests)
    for file in files:
        print(f"file        {file.absolute()}")
    print(f"bytes       {sum(file.stat().st_size for file in files)}")
    print(f"SHA-256     {digests.sha256}")
    print(f"git blob    {digests.git_blob}")
    described = known.described if known else "nothing: no known release has these digests"
    print(f"known as    {described}", flush=True)
