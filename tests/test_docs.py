"""The app, make and python accept the commands in README.md and docs, and links lead to files.

test_api.py tests the Python blocks.
"""

import importlib.util
import re
import shlex

import pytest
from app import ROOT

from swift_bids.cli.explain import build_parser as explain_parser
from swift_bids.cli.finetune import build_parser as finetune_parser
from swift_bids.cli.parse import parse_arguments
from swift_bids.cli.predict import build_parser as predict_parser
from swift_bids.cli.sensitivity import split_run
from swift_bids.cli.weights import build_parser as weights_parser

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("[!_]*.md"))]
PROGRAMS = ("swift-bids", "...", "docker run", "apptainer run", "make", "python -m")


def commands() -> list[tuple[str, str]]:
    """(page, command) for shell blocks and inline code, where it begins with a program."""
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
        lines = blocks.replace("\\\n", " ").split("\n")
        inline = re.findall(
            r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        )
        for command in [line.strip() for line in lines] + inline:
            if command.startswith(tuple(f"{program} " for program in PROGRAMS)):
                found.append((page.name, command))
    return found


COMMANDS = commands()


@pytest.fixture(autouse=True)
def files_in_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("01\n02\n")
    settings = tmp_path / "swift" / "sub-01" / "log" / "<time>_<id>" / "swift_bids.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("[arguments]\n")


def test_the_docs_have_commands():
    """Without commands, the next test would check nothing."""
    assert len(COMMANDS) > 60
    assert {page for page, _ in COMMANDS} > {"README.md", "docker.md", "slurm.md", "quickstart.md"}


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_valid(page, command):
    words = shlex.split(command.replace("$SLURM_ARRAY_TASK_ID", "1"))
    if words[0] == "make":
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets[1].split()
        return
    if words[0] == "python":
        other = ("build", "brainmarks.")  # tools that are not installed with the tests
        assert words[2].startswith(other) or importlib.util.find_spec(words[2])
        return
    if words[0] == "swift-bids" and words[1] == "weights":
        if "{" not in words[2]:  # stands for all subcommands
            weights_parser().parse_args(words[2:])
        return
    parsers = {"predict": predict_parser, "finetune": finetune_parser, "explain": explain_parser}
    if words[0] == "swift-bids" and words[1] in parsers:
        assert len(words) == 2 or parsers[words[1]]().parse_args(words[2:])
        return
    if words[:2] == ["swift-bids", "sensitivity"]:
        assert len(words) == 2 or parse_arguments(split_run(words[2:])[1])
        return
    if words[0] in ("docker", "apptainer"):
        (place,) = [i for i, word in enumerate(words) if word in ("swift_bids", "swift_bids.sif")]
        words = words[place:]
    elif words[0] == "...":
        words[:1] = ["swift-bids", "in", "out"]
    if len(words) == 3:  # the words that replace "..."
        assert words[0] == "swift-bids"
    elif words[1:] not in (["--help"], ["--version"]):
        args = parse_arguments(words[1:])
        assert args.analysis_level in ("participant", "group")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []
