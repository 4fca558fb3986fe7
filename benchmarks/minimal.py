"""Time the resampling of a raw BOLD run with the transforms of fMRIPrep's minimal level.

    python -m benchmarks.minimal --peer /path/to/environment/bin/python

The peer is an environment with fmriprep 25.2, whose own resampler makes the same run on the FSL
2 mm grid from the same files, with one thread. Ours are the steps `locate` and `normalise`, with
one thread, so the work of z-scoring is included. Both read a made run of 72 x 72 x 50 voxels and
write their result. CPU time is that of the process, after its imports; memory is its peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from examples.real_bold import write_affines
from swift_bids.geometry.frames import FRAMES, FSL_AFFINE, FSL_SHAPE
from swift_bids.geometry.grid import template_brain

ROOT = Path(__file__).resolve().parent.parent
SHAPE, ZOOM, TR = (72, 72, 50), 3.0, 0.8

OURS = """
import json, sys
from pathlib import Path
import torch, scipy.ndimage, nipype, h5py
from swift_bids.geometry.frames import FRAMES
from swift_bids.geometry.resample_time import Series
from swift_bids.inputs.brain_mask import NEAREST, BrainMask
from swift_bids.inputs.raw_header import affine_of, load_header
from swift_bids.inputs.transforms import Transforms
from swift_bids.steps.locate import locate
from swift_bids.steps.normalise import normalise
start()
mask = BrainMask("anatomical", files["mask"], steps=(files["h5"],), rule=NEAREST)
transforms = Transforms(files["hmc"], files["bold"], files["coreg"], files["h5"])
mask, points = locate(affine_of(load_header(files["bold"])), mask, transforms, FRAMES["ukb"])
mask.to_filename(files["out"] + "/located.nii.gz")
n = load_header(files["bold"])["dim"][4]
normalise(files["bold"], files["out"] + "/located.nii.gz", FRAMES["ukb"], Series(n, 0.8, 0, 0.8),
          files["out"] + "/matrix.npy", points=points)
"""
PEER = """
import json, sys
from pathlib import Path
import nibabel as nib
import numpy as np
from fmriprep.interfaces.resampling import resample_image
from fmriprep.utils.transforms import load_transforms
start()
target = nib.Nifti1Image(np.zeros((91, 109, 91), "u1"), nib.load(files["target"]).affine)
chain = load_transforms([Path(files[n]) for n in ("hmc", "coreg", "h5")], [False])
done = resample_image(nib.load(files["bold"]), target, chain, None, None, nthreads=1)
done.to_filename(files["out"] + "/full.nii.gz")
"""
FRAME = """
import json, resource, sys, time
files = json.loads(sys.argv[1])
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
def start():
    global began
    began = cpu(), time.perf_counter()
{code}
status = open("/proc/self/status").read()  # ru_maxrss would include the process that forked it
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps([cpu() - began[0], time.perf_counter() - began[1], peak]))
"""


def write_files(folder: Path, n_volumes: int) -> dict[str, str]:
    """Make a raw run and its transforms: a 1 mm displacement field, as fMRIPrep's, in one chunk."""
    rng = np.random.default_rng(0)
    affine = nib.affines.from_matvec(np.diag([-ZOOM, ZOOM, ZOOM]), [106, -125, -75])
    still = 500 + 300 * gaussian_filter(rng.normal(size=SHAPE), 2) * 10
    bold = np.empty((*SHAPE, n_volumes), np.int16)
    for t in range(n_volumes):
        bold[..., t] = still + rng.normal(0, 10, SHAPE)
    names = ("bold.nii.gz", "mask.nii.gz", "hmc.txt", "coreg.txt", "warp.h5")
    files = dict(zip(("bold", "mask", "hmc", "coreg", "h5"), (str(folder / n) for n in names)))
    image = nib.Nifti1Image(bold, affine)
    image.header.set_zooms((ZOOM,) * 3 + (TR,))
    image.to_filename(files["bold"])
    nib.Nifti1Image(template_brain().astype(np.uint8), FSL_AFFINE).to_filename(files["mask"])
    files["target"] = files["mask"]
    moved = np.tile(np.eye(4), (n_volumes, 1, 1))
    moved[:, :3] += rng.normal(0, (0.002, 0.002, 0.002, 0.3), (n_volumes, 3, 4))
    write_affines(Path(files["hmc"]), moved)
    write_affines(Path(files["coreg"]), nib.affines.from_matvec(np.eye(3), [1, 2, 3])[None])
    size = (182, 218, 182)
    field = np.empty((*size[::-1], 3), np.float32)
    for axis in range(3):
        coarse = gaussian_filter(rng.normal(size=(23, 28, 23)), 2)
        fine = np.kron(coarse / np.abs(coarse).max() * 4, np.ones((8, 8, 8)))
        field[..., axis] = gaussian_filter(fine, 4)[: size[2], : size[1], : size[0]]
    with h5py.File(files["h5"], "w") as content:
        ascii_text = h5py.string_dtype("ascii")
        for number, kind in enumerate(("CompositeTransform", "DisplacementFieldTransform")):
            group = content.create_group(f"TransformGroup/{number}")
            group.create_dataset("TransformType", data=[f"{kind}_float_3_3"], dtype=ascii_text)
        fixed = [*size, 91, 126, -72, 1, 1, 1, -1, 0, 0, 0, -1, 0, 0, 0, 1]
        group["TransformFixedParameters"] = np.array(fixed, dtype=np.float64)
        group.create_dataset(
            "TransformParameters", data=field.reshape(-1), chunks=(field.size,), compression="gzip"
        )
    return files


def measure(python: str, code: str, files: dict[str, str]) -> list[float]:
    """CPU seconds, seconds and peak MB of a script."""
    command = [python, "-c", FRAME.format(code=code), json.dumps(files)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def compare(matrix: Path, full: Path) -> float:
    """Median absolute difference between both results, in standard deviations of the run."""
    from swift_bids.inputs.mask import load_image, mask_voxels

    mask = matrix.with_name("located.nii.gz")
    index = mask_voxels(load_image(mask), mask, FRAMES["ukb"]).fsl_index
    values = np.asarray(nib.load(full).dataobj[..., :20]).reshape(np.prod(FSL_SHAPE), -1)[index].T
    ours = np.load(matrix, mmap_mode="r")[:20].astype(np.float64)
    seen = values != 0  # the others are outside the field of view, and became background
    slope, inter = np.polyfit(ours[seen], values[seen], 1)
    difference = np.abs(slope * ours + inter - values)[seen]
    return float(np.median(difference) / values[seen].std())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minimal", description=__doc__)
    parser.add_argument("--peer", help="Python of an environment with fmriprep; without it, ours")
    parser.add_argument("--volumes", type=int, nargs="+", default=[300])
    args = parser.parse_args()
    for n_volumes in args.volumes:
        with tempfile.TemporaryDirectory() as folder:
            files = write_files(Path(folder), n_volumes) | {"out": folder}
            print(f"\n{n_volumes} volumes of {' x '.join(map(str, SHAPE))} voxels")
            print("               CPU s       s  peak MB")
            ours = measure(sys.executable, OURS, files)
            print(f"swift_bids  {ours[0]:8.1f} {ours[1]:7.1f} {ours[2]:8.0f}")
            if args.peer:
                peer = measure(args.peer, PEER, files)
                print(f"fMRIPrep    {peer[0]:8.1f} {peer[1]:7.1f} {peer[2]:8.0f}")
                print(f"ratio of CPU time {peer[0] / ours[0]:.1f}")
                deviation = compare(Path(folder, "matrix.npy"), Path(folder, "full.nii.gz"))
                print(f"median difference {deviation:.1e} of the standard deviation")


if __name__ == "__main__":
    main()
