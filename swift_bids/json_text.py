"""JSON of others."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str) -> Any:
    """As json.loads; of brackets too deep to follow it raises ValueError, too."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("brackets within brackets, too deep to follow") from error
