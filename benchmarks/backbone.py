"""Times the backbone against the original forward pass, in turn and in one process.

    python -m benchmarks.backbone --reference reference_forward.pt

The reference is a TorchScript trace of the original network; its weights are loaded into ours, so
both do the same work, and their largest difference is printed beside the times.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from swift_bids.model import RELEASED_CONFIG, SwiFT


def seconds(network: torch.nn.Module, volumes: torch.Tensor) -> float:
    """Seconds of one forward pass."""
    start = time.perf_counter()
    network(volumes)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backbone", description=__doc__)
    parser.add_argument("--reference", required=True, help="traced original forward pass")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    reference = torch.jit.load(args.reference).eval()
    ours = SwiFT(**RELEASED_CONFIG).eval()
    ours.load_state_dict(reference.state_dict())
    volumes = torch.randn(1, 1, 96, 96, 96, 20, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, output = reference(volumes), ours(volumes)  # also the warm-up
        pairs = [(seconds(reference, volumes), seconds(ours, volumes)) for _ in range(args.rounds)]
    theirs, mine = (statistics.median(times) for times in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    deviation = float((output - expected).abs().max() / expected.abs().max())
    print(f"one chunk (20 volumes), float32, {args.threads} threads, {args.rounds} rounds, medians")
    print(f"reference {theirs:6.3f} s")
    print(f"ours      {mine:6.3f} s")
    print(f"ratio     {ratio:6.2f} (of pairs)")
    print(f"deviation {deviation:.1e} (max-abs over max-abs)")


if __name__ == "__main__":
    main()
