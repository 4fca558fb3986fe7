"""Text of a flag's value -> the value, or an error for argparse that says what it is not."""

from __future__ import annotations

import argparse
import math
import re
import tomllib
from pathlib import Path

from swift_bids.base.errors import UsageError

#: In GB.
_LEAST_MEMORY = 0.5
#: Of numbers that count something.
_DIGITS = 9
_MEMORY_UNITS = {"K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}


def labels_of(given: str) -> list[str]:
    """Labels apart by white space or commas, or those that a file named after `@` lists.

    In the file, what follows a `#` is a comment; of a participants.tsv the first column is read.
    """
    if not given.startswith("@"):
        return [label.rstrip("/") for label in given.replace(",", " ").split()]
    try:
        text = Path(given[1:]).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{given}: the list of labels cannot be read ({error})") from error
    lines = [line.partition("#")[0] for line in text.splitlines()]
    if lines and lines[0].split("\t")[0] == "participant_id":  # a participants.tsv
        lines = [line.split("\t")[0] for line in lines[1:]]
    labels = " ".join(lines).replace(",", " ").split()
    if not labels:
        raise UsageError(f"{given}: holds no label")
    return labels


def typed_in(config_file: Path, parser: argparse.ArgumentParser) -> list[str]:
    """The flags of a settings file (TOML, table `arguments`) as they would be typed.

    Raises
    ------
    UsageError
        The file is no such file, or sets what is no flag.
    """
    try:
        settings = tomllib.loads(config_file.read_text(encoding="utf-8"))["arguments"]
        settings = dict(settings)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"--config-file {config_file}: is no settings file with a table [arguments] ({error!r})"
        ) from error
    flags = {
        a.dest: a for a in parser._actions if a.option_strings and a.dest not in ("help", "version")
    }
    typed = []
    for name, value in settings.items():
        if name in ("bids_dir", "output_dir", "analysis_level", "config_file", "verbose"):
            continue  # of the call itself
        if name not in flags:
            raise UsageError(f"--config-file {config_file}: there is no flag --{name}")
        flag = flags[name].option_strings[-1]
        if any("\0" in str(one) for one in (value if isinstance(value, list) else [value])):
            raise UsageError(f"--config-file {config_file}: {name} holds a null character")
        if flags[name].nargs == 0:
            if not isinstance(value, bool):
                raise UsageError(f"--config-file {config_file}: {name} is neither true nor false")
            typed += [flag] * value
        elif name == "batch" and isinstance(value, list):
            typed.append(f"{flag}={'/'.join(map(str, value))}")
        elif isinstance(value, list):
            typed += [flag, *map(str, value)]
        elif name == "mem":  # noted in GB, typed in MB
            typed.append(f"{flag}={value}G")
        else:
            typed.append(f"{flag}={value}")
    return typed


def batch(text: str) -> tuple[int, int]:
    """`2/4` -> (2, 4): every fourth from the second on."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, of = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"{text} is no I/N with I from 1 to N")
    return number, of


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or len(text) > _DIGITS or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on, of {_DIGITS} digits")
    return int(text)


def auto_or_count(text: str) -> str:
    """`auto`, or a number of volumes."""
    if text != "auto" and (not text.isdecimal() or len(text) > _DIGITS):
        raise argparse.ArgumentTypeError(f"{text} is neither auto nor a number of volumes")
    return text


def target_tr(text: str) -> str:
    """`auto`, `native` or seconds; as text, as it was given."""
    if text not in ("auto", "native") and not 0.05 <= _number(text) <= 30:
        raise argparse.ArgumentTypeError(f"{text} is neither auto, native nor 0.05 to 30 seconds")
    return text


def millimetres(text: str) -> float:
    """A length."""
    length = _number(text)
    if not 0 < length < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no length in mm")
    return length


def share(text: str) -> float:
    """A share from 0 to 1."""
    share = _number(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to 1")
    return share


def device(text: str) -> str:
    """A torch device as `--device` takes it."""
    if not re.fullmatch(r"auto|cpu|cuda(?::\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text} is none of auto, cpu, cuda, cuda:N")
    return text


def gigabytes(text: str) -> float:
    """As fMRIPrep's --mem: MB without a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])?B?", text.upper())
    if match is None or float(match.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no amount of memory, such as 8000 or 8G")
    amount = float(match.group(1)) * _MEMORY_UNITS[match.group(2) or "M"]
    if amount < _LEAST_MEMORY:
        raise argparse.ArgumentTypeError(
            f"{text} is {amount:g} GB, too little for anything; without a unit it is MB, write 8G"
        )
    return amount


def _number(text: str) -> float:
    """A number, or NaN, which lies within no bounds."""
    try:
        return float(text)
    except ValueError:
        return math.nan
