"""Recorded calls: which ones are repeated for runs without a matrix, and their weights."""

from pathlib import Path

import pytest
import tomli_w

from swift_bids.base.errors import UsageError
from swift_bids.cli import explain, finetune, predict
from swift_bids.cli.embedded_runs import (
    embed_again,
    parse_command,
    run_filter_of,
    weights_of_call,
)
from swift_bids.network.bundles import write_random_bundle
from swift_bids.network.known_weights import digests_of


def record(output, participant, call, **arguments):
    folder = output / participant / "log" / call
    folder.mkdir(parents=True)
    given = {"bids_dir": "/in", "variant": "contrastive", "random_weights": False} | arguments
    (folder / "swift_bids.toml").write_text(tomli_w.dumps({"arguments": given}))
    return str(folder / "swift_bids.toml")


def matrix(output, name):
    file = (
        output / name.split("_")[0] / name.split("_")[1] / "func" / f"{name}_desc-swift_matrix.h5"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def test_calls_are_repeated_until_all_matrices_exist(tmp_path):
    """The sessions of sub-1 were embedded in two calls; sub-2 was in both of them."""
    record(tmp_path, "sub-1", "20260101-000000_a", session_label="01")
    record(tmp_path, "sub-2", "20260101-000000_a", session_label="01")
    record(tmp_path, "sub-1", "20260202-000000_b", session_label="02")
    record(tmp_path, "sub-2", "20260202-000000_b", session_label="02")
    made = {
        "20260101-000000_a": ["sub-1_ses-01"],
        "20260202-000000_b": ["sub-1_ses-02", "sub-2_ses-02"],
    }
    calls = []

    def app(words):
        call = Path(words[words.index("--config-file") + 1]).parent.name
        calls.append((call, words[words.index("--participant-label") + 1 :]))
        assert words[:4] == ["/in", str(tmp_path), "participant", "--keep-matrix"]
        for name in made[call]:
            matrix(tmp_path, name)
        return 1  # other runs of the call may fail

    embed_again(tmp_path, ["sub-1_ses-01", "sub-1_ses-02", "sub-2_ses-02"], app)
    first, last = made
    assert calls == [(last, ["sub-1", "sub-2"]), (first, ["sub-1"])]
    with pytest.raises(UsageError, match=r"sub-2_ses-03 has no matrix, and no recorded call"):
        embed_again(tmp_path, ["sub-2_ses-03"], app)


def test_weights_come_from_the_last_call(tmp_path):
    with pytest.raises(UsageError, match="give them with"), weights_of_call(tmp_path, None):
        pass
    with weights_of_call(tmp_path, "given") as weights:
        assert weights == "given"
    record(tmp_path, "sub-1", "20260101-000000_a", weights="/old")
    record(tmp_path, "sub-2", "20260202-000000_b", weights="/new")
    with weights_of_call(tmp_path, None) as weights:
        assert weights == "/new"
    record(tmp_path, "sub-1", "20260303-000000_c")
    with weights_of_call(tmp_path, None) as weights:
        assert weights is None  # the released ones
    # random numbers that the call made for itself, in its work folder
    record(tmp_path, "sub-1", "20260404-000000_d", random_weights=True)
    expected = write_random_bundle(tmp_path / "random") / "model.safetensors"
    with weights_of_call(tmp_path, None) as weights:
        assert digests_of(Path(weights, "model.safetensors")) == digests_of(expected)


@pytest.mark.parametrize(
    ("command", "call"),
    [
        (predict, ["probes", "out"]),
        (explain, ["probes", "out"]),
        (finetune, ["out", "--target", "age"]),
    ],
    ids=["predict", "explain", "finetune"],
)
def test_commands_choose_runs_as_the_app_does(tmp_path, command, call):
    file = tmp_path / "participants.tsv"
    file.write_text("participant_id\tage\nsub-01\t30\nsub-02\t40\n")
    labels = ["--participant-label", f"@{file}", "--exclude_participant_label=sub-02"]
    others = ["--task_id", "task-rest", "--run-id", "1", "--res", "res-2", "--echo-idx", "echo-1"]
    chosen = run_filter_of(parse_command(command.build_parser(), [*call, *labels, *others]))
    assert chosen.participants == ["01", "02"]
    names = [
        "sub-01_task-rest_run-01_echo-1_space-X_res-2",
        "sub-02_task-rest_run-01_echo-1_space-X_res-2",
        "sub-01_task-rest_run-02_echo-1_space-X_res-2",
        "sub-01_task-nback_run-01_echo-1_space-X_res-2",
    ]
    assert [name for name in names if chosen.accepts(name)] == names[:1]
    with pytest.raises(SystemExit, match="2"):
        parse_command(command.build_parser(), [*call, "--participant-label", "../else"])
