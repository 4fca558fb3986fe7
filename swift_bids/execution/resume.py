"""Which runs an earlier call has done, and why the others are done again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from swift_bids.base.files import read_json
from swift_bids.inputs.run import Run
from swift_bids.outputs.parcels import atlas_of, find_parcels
from swift_bids.outputs.paths import output_path
from swift_bids.outputs.provenance import Provenance, bids_uri, settings_metadata

#: Bytes of a file's beginning and end that are looked at, and of places between them.
_ENDS, _PLACE, _N_PLACES = 65_536, 4_096, 64
#: Why a run is embedded for the first time.
NOT_DONE = "it is not done yet"


def input_fingerprint(run: Run, provenance: Provenance) -> dict[str, str]:
    """BIDS URI of each input file -> what tells whether it is still the same.

    A run of gigabytes is not read for that: the digest is of its size, beginning, end (of a gzip
    file, the checksum of all it holds), and 64 places between. It stays the same when the file is
    copied, or dropped and fetched again.
    """
    return {bids_uri(file, provenance.dataset_root): _digest(Path(file)) for file in run.files}


def _digest(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as content:
        if size <= 2 * _ENDS + _N_PLACES * _PLACE:
            digest.update(content.read())
        else:
            step = (size - 2 * _ENDS) // _N_PLACES
            digest.update(content.read(_ENDS))
            for place in range(_N_PLACES):
                content.seek(_ENDS + place * step)
                digest.update(content.read(_PLACE))
            content.seek(-_ENDS, os.SEEK_END)
            digest.update(content.read())
    return digest.hexdigest()[:32]


def reason_to_rerun(
    output_dir: Path,
    run: Run,
    provenance: Provenance,
    inputs: dict[str, str],
    keep_tokens: bool,
    atlas_sha256: str | None,
) -> str | None:
    """Why a run must be embedded (again); None: its outputs are there, whole and by this very call.

    Parameters
    ----------
    inputs
        Of `input_fingerprint`.
    keep_tokens
        Whether the whole output of the network is wanted.
    atlas_sha256
        Of the `--atlas` file; None for the cubes.
    """
    sidecar = output_path(output_dir, run.name, "embedding", ".json")
    try:
        made = read_json(sidecar)
    except FileNotFoundError:
        return NOT_DONE
    except (OSError, ValueError):
        made = None
    if not isinstance(made, dict) or not isinstance(made.get("Preprocessing"), dict):
        return f"{sidecar.name} cannot be read"
    wanted = settings_metadata(provenance) | {"InputFingerprint": inputs}
    for part, what in (
        ("GeneratedBy", "another version"),
        ("Model", "another network"),
        ("Preprocessing", "other settings"),
        ("InputFingerprint", "another input"),
    ):
        if different := _different(made.get(part), wanted[part]):
            return f"it was made from or by {what} ({', '.join(different)})"
    if gone := sorted(set(made["InputFingerprint"]) - set(inputs)):
        return f"{gone[0].rpartition('/')[2]}, which it was made from, is not there any more"
    if (made.get("RepetitionTime"), made["Preprocessing"].get("DummyScansRemoved")) != (
        run.repetition_time,
        run.first_volume,
    ):
        return "its TR or its dummy scans are others now"
    files = made.get("Files")
    if not isinstance(files, dict):
        return f"{sidecar.name} cannot be read"
    for name, size in files.items():
        try:
            there = (output_dir / name).stat().st_size
        except OSError:
            return f"{Path(name).name} is not there"
        if there != size:
            return f"{Path(name).name} is damaged: it has {there} bytes, and had {size}"
    has_tokens = any(name.endswith("_tokens.safetensors") for name in files)
    if has_tokens and not keep_tokens:
        return "it has tokens, which are not wanted now"
    if keep_tokens and not has_tokens:
        return "it has no tokens, which are wanted now"
    parcels = find_parcels(sidecar.parent, run.name)
    try:
        if parcels is not None and atlas_of(parcels)[1] == atlas_sha256:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return f"the sidecar of {parcels} cannot be read"
    return "it has parcels of another atlas"


def _different(made: Any, wanted: Any) -> list[str]:
    """Names of what differs; the device counts for nothing, and a run has settings of its own."""
    if isinstance(wanted, list):
        made, wanted = (x[0] if isinstance(x, list) and x else None for x in (made, wanted))
    if not isinstance(made, dict):
        return ["unknown"]
    names = [key for key in wanted if key != "Device" and made.get(key) != wanted[key]]
    return [name.rpartition("/")[2] for name in names]
