"""Time the search for runs in large fMRIPrep trees, and plain globbing for the same files.

    python -m benchmarks.query --participants 100 1000 5000
    python -m benchmarks.query --participants 117 --runs 50      # a deep-phenotyping release

Every participant has a folder like fMRIPrep's, with 61 files for two runs: anatomy, figures,
surfaces, and BOLD in T1w, MNI152NLin6Asym and fsLR. All images are links to one small file. Each
search runs in a separate process; memory is the peak minus the memory after the imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

_ANAT = [
    f"{space}desc-{what}"
    for space in ("", "space-MNI152NLin6Asym_res-2_")
    for what in ("preproc_T1w.nii.gz", "preproc_T1w.json", "brain_mask.nii.gz", "brain_mask.json")
] + [
    "dseg.nii.gz",
    *(f"label-{tissue}_probseg.nii.gz" for tissue in ("CSF", "GM", "WM")),
    *(f"from-T1w_to-{to}_mode-image_xfm.h5" for to in ("MNI152NLin6Asym", "fsnative")),
    *(f"hemi-{side}_{surface}.surf.gii" for side in "LR" for surface in ("pial", "white")),
]
_FIGURES = [f"desc-{name}_T1w.svg" for name in ("conform", "dseg", "reconall")]
_RUN = [
    f"{space}{what}"
    for space in ("space-T1w_", "space-MNI152NLin6Asym_res-2_")
    for what in (
        "desc-preproc_bold.nii.gz",
        "desc-preproc_bold.json",
        "desc-brain_mask.nii.gz",
        "desc-brain_mask.json",
        "boldref.nii.gz",
    )
] + [
    "desc-brain_mask.nii.gz",
    "desc-confounds_timeseries.tsv",
    "desc-confounds_timeseries.json",
    "space-fsLR_den-91k_bold.dtseries.nii",
    "from-scanner_to-T1w_mode-image_xfm.txt",
]
_RUN_FIGURES = [f"desc-{name}_bold.svg" for name in ("carpetplot", "coreg", "rois")]


def write_tree(root: Path, n_participants: int, n_runs: int) -> int:
    """Write the tree and return the number of its files."""
    root.mkdir()
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 30), np.int16), np.diag([2.0, 2, 2, 1]))
    image.header.set_zooms((2, 2, 2, 0.8))
    image.to_filename(root / "image.nii.gz")
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "tree", "BIDSVersion": "1.10.0", "DatasetType": "derivative"})
    )
    count = 0
    for number in range(n_participants):
        label = f"sub-{number:04d}"
        files = [f"anat/{label}_{name}" for name in _ANAT]
        files += [f"figures/{label}_{name}" for name in _FIGURES]
        for run in range(1, n_runs + 1):
            stem = f"{label}_task-rest_run-{run}"
            files += [f"func/{stem}_{name}" for name in _RUN]
            files += [f"figures/{stem}_{name}" for name in _RUN_FIGURES]
        for folder in ("anat", "figures", "func"):
            (root / label / folder).mkdir(parents=True)
        for name in files:
            path = root / label / name
            if name.endswith("_bold.nii.gz") or name.endswith("brain_mask.nii.gz"):
                path.hardlink_to(root / "image.nii.gz")
            elif name.endswith("_bold.json"):
                path.write_text('{"RepetitionTime": 0.8}')
            elif name.endswith("timeseries.tsv"):
                path.write_text("framewise_displacement\n" + "0.1\n" * 30)
            else:
                path.touch()
        (root / f"{label}.html").touch()
        count += len(files) + 1
    return count


def search(root: Path, labels: list[str]) -> None:
    """Find the runs as the app does, and print their number, the seconds and the MB."""
    import bids.layout  # noqa: F401  import time does not count

    from swift_bids.inputs.dataset import find_derivatives
    from swift_bids.inputs.query import find_runs
    from swift_bids.inputs.selection import Selection

    def peak() -> float:
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) / 1024

    before, started = peak(), time.process_time()
    dataset = find_derivatives(root)
    chosen, _ = dataset.choose(labels or None)
    runs, problems = find_runs(dataset, chosen, Selection())
    assert not problems, problems[:3]
    print(len(runs), time.process_time() - started, peak() - before)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.query", description=__doc__)
    parser.add_argument("--participants", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--labels", nargs="*", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.search:
        search(args.search, args.labels)
        return
    print("participants    files  wanted    runs  seconds  peak MB  glob seconds")
    for n in args.participants:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "fmriprep"
            n_files = write_tree(root, n, args.runs)
            for labels in (["0050"], []):
                pattern = f"sub-{labels[0] if labels else '*'}/func/*_desc-preproc_bold.nii.gz"
                started = time.process_time()
                globbed = [p for p in root.glob(pattern) if "_space-MNI152NLin6Asym" in p.name]
                glob_seconds = time.process_time() - started
                call = [sys.executable, "-m", "benchmarks.query", "--search", str(root)]
                answer = subprocess.run(
                    [*call, "--labels", *labels], capture_output=True, text=True, check=True
                ).stdout.split()
                assert int(answer[0]) == len(globbed)
                wanted = labels[0] if labels else "all"
                print(
                    f"{n:12}  {n_files:7}  {wanted:>6}  {answer[0]:>6}  {float(answer[1]):7.2f}  "
                    f"{float(answer[2]):7.0f}  {glob_seconds:12.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
