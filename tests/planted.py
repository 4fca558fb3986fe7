"""Outputs of the participant level with a planted signal, and a network small enough to train.

Every participant has a pattern in a sphere, with the opposite sign in cases and controls, during
the first half of each chunk. Its mean over the sphere is zero, and it is weak compared with the
differences between participants in each voxel, so a network must learn the pattern to find it: the
features of a network with random weights hardly contain it.
"""

import json

import numpy as np
import pandas as pd
import torch
from make_data import write_bundle

from benchmarks.group import write_outputs
from swift_bids import SwiFT
from swift_bids.base.backbones import feature_names
from swift_bids.geometry.frames import FRAMES
from swift_bids.network.known_weights import digests_of
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.outputs.matrix import Conformed, write_matrix
from swift_bids.steps.embed import embed_chunks

CONFIG = RELEASED_CONFIG | {
    "patch_size": (12, 12, 12, 1),
    "embed_dim": 24,
    "depths": (1, 1, 1),
    "num_heads": (2, 4, 8),
}
#: The brain is a cube in the middle of the input, on the border of eight patches.
SIDE = np.arange(36, 60)
XYZ = np.stack(np.meshgrid(SIDE, SIDE, SIDE, indexing="ij")).reshape(3, -1)
INDEX = np.ravel_multi_index(tuple(XYZ), (96, 96, 96))
REGION = np.square(XYZ - [[52], [44], [50]]).sum(axis=0) < 7**2
PATTERN = np.where(XYZ[0] < 52, 1.0, -1.0) * REGION


def write_tiny_bundle(folder, seed=0):
    """Random weights of a network with the input of the released one."""
    torch.manual_seed(seed)
    return write_bundle(folder, SwiFT(**CONFIG).state_dict(), CONFIG)


def write_cohort(root, bundle, n_participants, amplitude, n_chunks=1):
    """Write what the participant level would have written; return the output folder."""
    write_outputs(root, n_participants, 1, connectivity=True)
    output = root / "swift"
    known = pd.read_csv(root / "fmriprep" / "participants.tsv", sep="\t")
    known.to_csv(output / "participants.tsv", sep="\t", index=False)
    sha256 = digests_of(bundle / "model.safetensors").sha256
    network = SwiFT.from_file(bundle / "model.safetensors")
    rng = np.random.default_rng(0)
    for file in sorted(output.glob("sub-*/func/*_embedding.json")):
        participant = file.name.split("_")[0]
        (is_case,) = known["planted"][known["participant_id"] == participant] == "case"
        matrix = 0.5 * rng.standard_normal((20 * n_chunks, INDEX.size))
        matrix += 0.5 * rng.standard_normal(INDEX.size)
        for start in range(0, 20 * n_chunks, 20):
            matrix[start : start + 10] += (2 * is_case - 1) * amplitude * PATTERN
        matrix = matrix.astype(np.float16)
        starts = list(range(0, 20 * n_chunks, 20))
        tokens = embed_chunks(matrix, INDEX, starts, 0.0, network)
        pooled = tokens.mean(axis=(2, 3, 4, 5))
        names = feature_names("swift", pooled.shape[1])
        row = pd.read_csv(file.with_suffix(".tsv"), sep="\t").iloc[:, :10]
        row[["n_chunks", "n_included"]] = n_chunks
        features = pd.DataFrame([pooled.mean(axis=0)], columns=names)
        pd.concat([row, features], axis=1).to_csv(file.with_suffix(".tsv"), sep="\t", index=False)
        chunks = pd.DataFrame({"model_start": starts, "included": "true"})
        stem = str(file).removesuffix("_embedding.json")
        chunks.to_csv(f"{stem}_timeseries.tsv", sep="\t", index=False)
        about = json.loads(file.read_text())
        about["Model"]["WeightsSHA256"] = sha256
        file.write_text(json.dumps(about))
        file.with_name(
            f"{file.name.removesuffix('_embedding.json')}_positions.safetensors"
        ).unlink()
        conformed = Conformed(matrix, INDEX, 0.0, FRAMES["ukb"].affine)
        write_matrix(file.with_name(f"{stem.rpartition('/')[2]}_matrix.h5"), conformed)
        log = output / participant / "log" / "20260101-000000_x"
        log.mkdir(parents=True)
        (log / "swift_bids.toml").write_text(
            f'[arguments]\nbids_dir = "{root / "fmriprep"}"\nweights = "{bundle}"\n'
            'variant = "contrastive"\n'
        )
    return output
