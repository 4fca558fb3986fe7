"""Text of a flag's value -> the value, or an error for argparse that says what is expected."""

from __future__ import annotations

import argparse
import math
import re
import tomllib
from pathlib import Path

from swift_bids.base.errors import UsageError

#: Smallest value of --mem, in GB.
_MIN_MEMORY = 0.5
#: Digits of a whole number.
_MAX_DIGITS = 9
#: GB per unit of --mem.
_MEMORY_UNITS = {"K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}


#: Arguments that choose runs -> prefix of their labels, which may be left out.
LABELS = {
    "participant_label": "sub-",
    "exclude_participant_label": "sub-",
    "session_label": "ses-",
    "task_id": "task-",
    "run_id": "run-",
    "space": "space-",
    "res": "res-",
    "echo_idx": "echo-",
}


def tidy_labels(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Remove the prefixes of the labels in `args`, and read lists of participants from files."""
    for name, prefix in LABELS.items():
        labels = getattr(args, name)
        if labels is not None and name.endswith("participant_label"):
            labels = [label for given in labels for label in parse_labels(given)]
            if paths := [label for label in labels if "/" in label]:
                parser.error(f"{paths[0]} is a path, not a participant's label")
        setattr(args, name, labels and [label.removeprefix(prefix) for label in labels])


def with_hyphens(argument: str) -> str:
    """`--participant_label=a_b` -> `--participant-label=a_b`."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def parse_labels(given: str) -> list[str]:
    """Split labels at white space and commas, or read them from a file given as `@FILE`.

    In the file, `#` starts a comment. From a participants.tsv, the first column is read.
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
        raise UsageError(f"{given}: contains no labels; list at least one")
    return labels


def config_file_flags(config_file: Path, parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags of a settings file (TOML, table `arguments`) as on the command line.

    Raises
    ------
    UsageError
        The file is not a settings file, or one of its names is not a flag.
    """
    try:
        settings = tomllib.loads(config_file.read_text(encoding="utf-8"))["arguments"]
        settings = dict(settings)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"--config-file {config_file}: is not a settings file with a table [arguments] "
            f"({error!r}); correct it"
        ) from error
    flags = {
        a.dest: a for a in parser._actions if a.option_strings and a.dest not in ("help", "version")
    }
    typed = []
    for name, value in settings.items():
        if name in ("bids_dir", "output_dir", "analysis_level", "config_file", "verbose"):
            continue  # each command sets these itself
        if name not in flags:
            raise UsageError(
                f"--config-file {config_file}: there is no flag --{name}; correct or remove it"
            )
        flag = flags[name].option_strings[-1]
        if any("\0" in str(item) for item in (value if isinstance(value, list) else [value])):
            raise UsageError(f"--config-file {config_file}: {name} contains a null character")
        if flags[name].nargs == 0:
            if not isinstance(value, bool):
                raise UsageError(f"--config-file {config_file}: {name} must be true or false")
            typed += [flag] * value
        elif name == "batch" and isinstance(value, list):
            typed.append(f"{flag}={'/'.join(map(str, value))}")
        elif isinstance(value, list):
            typed += [flag, *map(str, value)]
        elif name == "mem":  # in GB in the file, in MB on the command line
            typed.append(f"{flag}={value}G")
        else:
            typed.append(f"{flag}={value}")
    return typed


def batch(text: str) -> tuple[int, int]:
    """`2/4` -> (2, 4): every fourth, starting with the second."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, of = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= of:
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 1 to N")
    return number, of


def positive(text: str) -> int:
    """Text -> a whole number of at least 1."""
    if not text.isdecimal() or len(text) > _MAX_DIGITS or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text} is not a whole number from 1 to {10**_MAX_DIGITS - 1}"
        )
    return int(text)


def auto_or_count(text: str) -> str:
    """Check that the text is `auto` or a number of volumes."""
    if text != "auto" and (not text.isdecimal() or len(text) > _MAX_DIGITS):
        raise argparse.ArgumentTypeError(f"{text} is neither auto nor a number of volumes")
    return text


def target_tr(text: str) -> str:
    """Check that the text is `auto`, `native` or seconds, and return it unchanged."""
    if text not in ("auto", "native") and not 0.05 <= _number(text) <= 30:
        raise argparse.ArgumentTypeError(f"{text} is not auto, native or 0.05 to 30 seconds")
    return text


def millimetres(text: str) -> float:
    """Text -> a length in mm."""
    length = _number(text)
    if not 0 < length < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a length in mm above 0")
    return length


def share(text: str) -> float:
    """Text -> a fraction from 0 to 1."""
    share = _number(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return share


def device(text: str) -> str:
    """Check that the text is a torch device that `--device` accepts."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3}(,\d{1,3})*)?", text):
        raise argparse.ArgumentTypeError(f"{text} is not auto, cpu, cuda or cuda:N,N,...")
    return text


def gigabytes(text: str) -> float:
    """Text -> GB; as in fMRIPrep's --mem, a number without a unit is MB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])?B?", text.upper())
    if match is None or float(match.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not an amount of memory such as 8000 or 8G")
    amount = float(match.group(1)) * _MEMORY_UNITS[match.group(2) or "M"]
    if amount < _MIN_MEMORY:
        raise argparse.ArgumentTypeError(
            f"{text} is {amount:g} GB, which is too little; numbers without a unit are MB, so for "
            f"GB write for example 8G"
        )
    return amount


def _number(text: str) -> float:
    """Text -> a number, or NaN, which is outside all bounds."""
    try:
        return float(text)
    except ValueError:
        return math.nan
