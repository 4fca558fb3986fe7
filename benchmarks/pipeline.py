"""Time `run.py participant` and the original pipeline on one run, stage by stage.

    python -m benchmarks.pipeline --reference reference_forward.pt

The original pipeline follows the preprocessing and the loader of Kim et al. 2023: nibabel reads the
whole image, torch computes z-scores over the whole array and converts them to float16, and
torch.save writes one file per volume; then each chunk is read from these files, padded and passed
through the traced original network. Our pipeline is the whole command as a user types it, with
imports, query and report. Both run alternately in separate processes; a ratio is the median of the
pairs. Memory is the proportional set size summed over all processes of a pipeline (Linux); it is
sampled in an extra run without timing, since sampling takes time.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from swift_bids.demo import make_head
from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE
from swift_bids.geometry.grid import template_brain
from swift_bids.network.bundles import write_random_bundle

ROOT = Path(__file__).resolve().parent.parent
RUN = "sub-01_task-rest_space-MNI152NLin6Asym_res-2_desc-"
#: Voxels of the field of view: outside of it, a real run is exactly 0.
FIELD_OF_VIEW = (slice(6, 85), slice(4, 105), slice(0, 77))


@dataclass
class Stage:
    """A stage of a pipeline: seconds from start to end, and peak memory (MB)."""

    name: str
    seconds: float
    memory: float


def write_dataset(root: Path, n_volumes: int) -> Path:
    """Write a derivative with one float32 run of 91 x 109 x 91 voxels; return its BOLD file."""
    folder = root / "sub-01" / "func"
    bold = folder / f"{RUN}preproc_bold.nii.gz"
    if bold.exists():
        return bold
    folder.mkdir(parents=True, exist_ok=True)
    brain = template_brain()
    still = np.zeros(FSL_SHAPE, dtype=np.float32)
    still[FIELD_OF_VIEW] = make_head("01", brain).still[FIELD_OF_VIEW]
    image = nib.Nifti1Image(np.empty((*FSL_SHAPE, 0), np.float32), FSL_AFFINE)
    image.header.set_data_shape((*FSL_SHAPE, n_volumes))
    image.header["pixdim"][4], image.header["vox_offset"] = 0.8, 352
    image.header["magic"] = b"n+1"
    rng = np.random.default_rng(0)
    part = bold.with_name("part")
    with igzip.open(part, "wb", compresslevel=1) as file:
        file.write(image.header.binaryblock + bytes(4))
        for t in range(n_volumes):
            noise = 8 * rng.standard_normal(FSL_SHAPE, dtype=np.float32)
            volume = still * np.float32(1 + 0.01 * np.sin(t / 7)) + np.where(still, noise, 0)
            file.write(volume.tobytes(order="F"))
    (folder / f"{RUN}preproc_bold.json").write_text(json.dumps({"RepetitionTime": 0.8}))
    mask = nib.Nifti1Image(brain.astype(np.uint8), FSL_AFFINE)
    mask.to_filename(folder / f"{RUN}brain_mask.nii.gz")
    moved = "\n".join(f"{abs(fd):.4f}" for fd in rng.normal(0.1, 0.05, n_volumes - 1))
    confounds = folder / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    confounds.write_text(f"framewise_displacement\nn/a\n{moved}\n")
    about = {"Name": "benchmark", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (root / "dataset_description.json").write_text(json.dumps(about))
    part.rename(bold)
    return bold


def original(bold: Path, reference: str, folder: Path) -> None:
    """Run the original pipeline and print a line at the end of each stage."""
    import torch
    from torch.nn.functional import pad

    print("imports", flush=True)
    data = torch.from_numpy(nib.load(bold).get_fdata(dtype=np.float32))
    mask = nib.load(str(bold).replace("preproc_bold", "brain_mask")).get_fdata() > 0
    data = data * torch.from_numpy(mask)[..., None]
    data = data[:, 7:-6]  # how the loader crops UK Biobank data
    background = data == 0
    mean, std = data[~background].mean(), data[~background].std()
    z = (data - mean) / std
    filled = torch.empty(data.shape)
    filled[background] = z[~background].min()
    filled[~background] = z[~background]
    filled = filled.type(torch.float16)
    for t, volume in enumerate(torch.split(filled, 1, 3)):
        torch.save(volume.clone(), folder / f"frame_{t}.pt")
    n_volumes = data.shape[3]
    del data, background, z, filled
    print("read, normalise, save", flush=True)
    network = torch.jit.load(reference).eval()
    with torch.inference_mode():
        for start in range(0, n_volumes - 19, 20):
            frames = [torch.load(folder / f"frame_{t}.pt") for t in range(start, start + 20)]
            chunk = torch.cat(frames, dim=3).permute(3, 0, 1, 2)  # (T, X, Y, Z)
            value = float(chunk.flatten()[0])
            chunk = pad(chunk.float(), (3, 2, 0, 0, 3, 2), value=value)
            network(chunk.permute(1, 2, 3, 0)[None, None])
    print("load, embed", flush=True)


def measure(command: list[str], stages: dict[str, str], memory: bool) -> list[Stage]:
    """Run a command and recognise the ends of its stages from its output.

    Parameters
    ----------
    stages
        Stage -> pattern of the line that ends it, in order; the last stage ends with the command.
    memory
        Whether to sample the memory of the processes.
    """
    samples: list[tuple[float, float]] = []
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    ended = threading.Event()

    def sample() -> None:
        while memory and not ended.wait(0.05):
            total = sum(map(_proportional_set_size, _tree(process.pid)))
            samples.append((time.perf_counter(), total))

    sampler = threading.Thread(target=sample)
    sampler.start()
    waiting = dict(stages)
    done, before, lines = [], started, []

    def end_stage(name: str) -> None:
        nonlocal before
        now = time.perf_counter()
        peak = max((mb for at, mb in samples if before <= at <= now), default=0.0)
        done.append(Stage(name, now - before, peak))
        before = now

    for line in process.stdout:
        lines.append(line)
        for name, pattern in list(waiting.items())[:1]:
            if re.search(pattern, line):
                del waiting[name]
                end_stage(name)
    code = process.wait()
    ended.set()
    sampler.join()
    if code or waiting:
        sys.exit(f"{command} ended with {code}:\n{''.join(lines)}")
    end_stage("exit")
    return done


def _tree(pid: int) -> Iterator[int]:
    """A process and all its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in children.read_text().split():
                yield from _tree(int(child))
        except OSError:  # the process has ended
            continue


def _proportional_set_size(pid: int) -> float:
    """Memory of a process in MB; shared pages are divided among the processes that share them."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match.group(1)) / 1024 if match else 0.0


def run_original(bold: Path, reference: str, memory: bool) -> list[Stage]:
    with tempfile.TemporaryDirectory(dir=bold.parent) as folder:
        options = ["--original-of", str(bold), "--reference", reference, "--frames", folder]
        command = [sys.executable, "-m", "benchmarks.pipeline", *options]
        names = ("imports", "read, normalise, save", "load, embed")
        return measure(command, {name: f"^{name}$" for name in names}, memory)


def run_ours(root: Path, weights: Path, memory: bool) -> list[Stage]:
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        call = [str(root), folder, "participant", "--weights", str(weights), "--random-weights"]
        stages = {
            "imports, query": r"^embedding 1 run\(s\) on",
            "normalise (crop, chunk)": r": normalise took",
            "embed": r": embed took",
            "aggregate": r": aggregate took",
            "report": r"^done:",
        }
        return measure([sys.executable, str(ROOT / "run.py"), *call, "-v"], stages, memory)


def print_table(
    title: str, stages: list[Stage], megabytes: float, without: tuple[str, ...] = ()
) -> None:
    """Print seconds, share, MB of BOLD data per second, and memory; omit `without` from totals."""
    total = sum(stage.seconds for stage in stages if stage.name not in without)
    print(f"\n{title:26} seconds   share    MB/s  peak MB")
    for stage in stages:
        rate = megabytes / stage.seconds
        share = f"{stage.seconds / total:6.0%}" if stage.name not in without else "     -"
        print(f"{stage.name:26} {stage.seconds:7.2f}  {share}  {rate:6.0f}  {stage.memory:7.0f}")
    peak = max(stage.memory for stage in stages)
    print(f"{'total':26} {total:7.2f}    100%  {megabytes / total:6.0f}  {peak:7.0f}")


def middle(rounds: list[list[Stage]], sampled: list[Stage]) -> list[Stage]:
    """Median seconds of each stage, with its memory from the sampled run."""
    return [
        Stage(same[0].name, statistics.median(stage.seconds for stage in same), other.memory)
        for *same, other in zip(*rounds, sampled)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument(
        "--reference", help="traced original forward pass; without it, only time ours"
    )
    parser.add_argument("--volumes", type=int, nargs="+", default=[300, 1200])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="keep the data in this folder for the next call"
    )
    parser.add_argument("--original-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.original_of:
        original(args.original_of, args.reference, args.frames)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        weights = write_random_bundle(folder / "weights")
        for number, n_volumes in enumerate(args.volumes):
            compare(
                folder, weights, n_volumes, args.reference if number == 0 else None, args.rounds
            )


def compare(
    folder: Path, weights: Path, n_volumes: int, reference: str | None, rounds: int
) -> None:
    """Print the stages for one length of the run, and those of the original if requested."""
    root = folder / f"run{n_volumes}"
    bold = write_dataset(root, n_volumes)
    megabytes = 4 * np.prod(FSL_SHAPE) * n_volumes / 1e6
    print(
        f"\n{n_volumes} volumes of 91 x 109 x 91 float32: {megabytes:.0f} MB, "
        f"{bold.stat().st_size / 1e6:.0f} MB gzipped; {rounds} rounds, medians"
    )
    ours, theirs = [], []
    for _ in range(rounds):
        if reference:
            theirs.append(run_original(bold, reference, memory=False))
        ours.append(run_ours(root, weights, memory=False))
    if reference:
        sampled = run_original(bold, reference, memory=True)
        print_table("original", middle(theirs, sampled), megabytes, without=("imports", "exit"))
    print_table("swift_bids", middle(ours, run_ours(root, weights, memory=True)), megabytes)
    if reference:
        reading = [t[1].seconds / o[1].seconds for t, o in zip(theirs, ours)]
        # our imports and exit count, those of the original do not
        whole = [
            sum(s.seconds for s in t[1:3]) / sum(s.seconds for s in o) for t, o in zip(theirs, ours)
        ]
        print(f"\nratio, reading and normalising {statistics.median(reading):5.1f}", end="")
        print(f"  ({min(reading):.1f} to {max(reading):.1f})")
        print(f"ratio, the whole command       {statistics.median(whole):5.1f}", end="")
        print(f"  ({min(whole):.1f} to {max(whole):.1f})")


if __name__ == "__main__":
    main()
