"""The outputs of earlier calls -> which runs are done, and why the others are embedded again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from swift_bids.base.files import read_json
from swift_bids.inputs.run import Run
from swift_bids.outputs.parcels import find_parcels, origin_of
from swift_bids.outputs.paths import output_path
from swift_bids.outputs.provenance import (
    Provenance,
    bids_uri,
    resampling_metadata,
    settings_metadata,
)
from swift_bids.settings import OptionalFiles

#: Bytes that a fingerprint reads at each end of a file and in each sample in between, and number of
#: samples.
_END_BYTES, _SAMPLE_BYTES, _N_SAMPLES = 65_536, 4_096, 64
#: The reason for a run that has no embedding yet.
NOT_DONE = "it is not done yet"


def input_fingerprint(run: Run, provenance: Provenance) -> dict[str, str]:
    """BIDS URI of each input file -> a digest that changes with the content of the file.

    To avoid reading gigabytes, the digest covers the size, the beginning, the end (in a gzip file,
    the checksum of the content) and 64 places in between. It stays the same when the file is
    copied, or dropped and fetched again.
    """
    return {bids_uri(file, provenance): _digest(Path(file)) for file in run.files}


def _digest(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as content:
        if size <= 2 * _END_BYTES + _N_SAMPLES * _SAMPLE_BYTES:
            digest.update(content.read())
        else:
            step = (size - 2 * _END_BYTES) // _N_SAMPLES
            digest.update(content.read(_END_BYTES))
            for sample in range(_N_SAMPLES):
                content.seek(_END_BYTES + sample * step)
                digest.update(content.read(_SAMPLE_BYTES))
            content.seek(-_END_BYTES, os.SEEK_END)
            digest.update(content.read())
    return digest.hexdigest()[:32]


def reason_to_rerun(
    output_dir: Path,
    run: Run,
    provenance: Provenance,
    fingerprints: dict[str, str],
    optional: OptionalFiles,
    parcels: tuple[str, str],
) -> str | None:
    """Why a run must be embedded (again); None if its outputs are complete and have these settings.

    Parameters
    ----------
    fingerprints
        From `input_fingerprint`.
    optional
        Which large files this call writes.
    parcels
        SHA-256 of the `--atlas` file, and `--confounds-strategy`.
    """
    sidecar = output_path(output_dir, run.name, run.label, "embedding", ".json")
    try:
        recorded = read_json(sidecar)
    except FileNotFoundError:
        return NOT_DONE
    except (OSError, ValueError):
        recorded = None
    if not isinstance(recorded, dict) or not isinstance(recorded.get("Preprocessing"), dict):
        return f"{sidecar.name} cannot be read"
    wanted = settings_metadata(provenance) | {"InputFingerprint": fingerprints}
    wanted["Preprocessing"] |= resampling_metadata(run)
    for part, difference in (
        ("GeneratedBy", "it was made by another version"),
        ("Model", "it was made with another network"),
        ("Preprocessing", "it was made with other settings"),
        ("InputFingerprint", "its input has changed"),
    ):
        if keys := _changed_keys(recorded.get(part), wanted[part]):
            return f"{difference} ({', '.join(keys)})"
    if removed := sorted(set(recorded["InputFingerprint"]) - set(fingerprints)):
        return f"{removed[0].rpartition('/')[2]} is no longer one of its inputs"
    if recorded.get("RepetitionTime") != run.repetition_time:
        return "its TR has changed"
    files = recorded.get("Files")
    if not isinstance(files, dict):
        return f"{sidecar.name} cannot be read"
    for name, size in files.items():
        try:
            size_now = (output_dir / name).stat().st_size
        except OSError:
            return f"{Path(name).name} is missing"
        if size_now != size:
            return f"{Path(name).name} is damaged: it has {size_now} bytes instead of {size}"
    if not any(name.endswith("_positions.safetensors") for name in files):
        return "it has no tokens by position"
    has_tokens = any(name.endswith("_tokens.safetensors") for name in files)
    if has_tokens and not optional.tokens:
        return "it has tokens, but this command has --no-tokens"
    if optional.tokens and not has_tokens:
        return "it has no tokens, but this command keeps them"
    if optional.matrix and not any(name.endswith("_matrix.h5") for name in files):
        return "it has no matrix, but this command has --keep-matrix"
    table = find_parcels(sidecar.parent, run.name)
    if table is not None:
        made = origin_of(table)
        if (made.sha256, made.strategy) == parcels:
            return None
    return "its parcels are those of another atlas or another confounds strategy"


def _changed_keys(recorded: Any, wanted: Any) -> list[str]:
    """Keys of `wanted` with another recorded value. Ignores `Device` and `Kernel`, and recorded
    keys that `wanted` lacks."""
    if isinstance(wanted, list):
        recorded, wanted = (x[0] if isinstance(x, list) and x else None for x in (recorded, wanted))
    if not isinstance(recorded, dict):
        return ["unknown"]
    kept = wanted.keys() - {"Device", "Kernel"}
    names = [key for key in wanted if key in kept and recorded.get(key) != wanted[key]]
    return [name.rpartition("/")[2] for name in names]
