"""Files that are either complete or absent, and JSON written by other software."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from swift_bids.base.errors import os_errors_as_output_errors
from swift_bids.base.locks import abandoned, locked

#: Ending of temporary files; a leading dot keeps them out of BIDS queries.
PART = ".part"


def read_json(file: str | Path) -> Any:
    """Read a JSON file, with or without a byte-order mark.

    Raises
    ------
    ValueError
        The file is not JSON, or is nested too deeply for Python's parser.
    """
    try:
        return json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write(temporary path)` create a file in the same folder, then rename it to `path`.

    A job that is killed in between leaves no incomplete file under the final name. The temporary
    file stays locked while it is written, so that `remove_parts` of another job leaves it alone.

    Raises
    ------
    OutputError
        The file cannot be written, for example because the disk is full.
    """
    # A random name: processes in two containers of one host can have the same process ID.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PART}")
    with os_errors_as_output_errors(path):
        with locked(temporary) as file:
            try:
                write(temporary)
                os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8; lone surrogates, which file names and JSON may contain, are escaped."""
    content = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def remove_parts(folder: Path, recursive: bool = False) -> None:
    """Remove the temporary files that killed calls left in a folder."""
    for part in (folder.rglob if recursive else folder.glob)(f".*{PART}"):
        with suppress(OSError), abandoned(part):
            part.unlink()
