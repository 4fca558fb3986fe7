"""Columns of sessions as targets and covariates of longitudinal studies."""

import shutil

import numpy as np
import pandas as pd
import pytest
from app import run_app

from benchmarks.group import write_outputs

N_PARTICIPANTS = 30


@pytest.fixture(scope="module")
def made_up(made_once):
    """Two sessions of each participant; `score` is in the embeddings, `noise` is not."""
    return made_once("sessions", _make_up) / "data"


def _make_up(folder):
    root = folder / "data"
    write_outputs(root, N_PARTICIPANTS, 2, connectivity=False)
    rng = np.random.default_rng(0)
    for participant in sorted(path.name for path in (root / "fmriprep").glob("sub-*")):
        rows = []
        for session in "12":
            score = rng.normal(50, 10)
            for file in root.glob(f"swift/{participant}/func/*_run-{session}_*"):
                if file.suffix == ".tsv":
                    table = pd.read_csv(file, sep="\t")
                    table[[f"swift{i:03d}" for i in range(40)]] += 0.2 * (score - 50)
                    table.to_csv(file, sep="\t", index=False)
                name = file.name.replace(f"_run-{session}", "").replace(
                    "_task", f"_ses-{session}_task"
                )
                place = root / "swift" / participant / f"ses-{session}" / "func"
                place.mkdir(parents=True, exist_ok=True)
                file.rename(place / name)
            rows.append(
                {"session_id": f"ses-{session}", "score": round(score, 1), "noise": rng.random()}
            )
        table = pd.DataFrame(rows).assign(visit=["first", "Second"], scanner=["A", "B"])
        table.to_csv(
            root / "fmriprep" / participant / f"{participant}_sessions.tsv", sep="\t", index=False
        )


def probe(root, *flags):
    call = (root / "fmriprep", root / "swift", "group", "--permutations", "19", *flags)
    done = run_app(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(root / "swift/group_desc-swift_probes.tsv", sep="\t", na_values="n/a")
    return table[table["metric"].isin(["r2", "auroc"])].set_index(["target", "features"])


def test_targets_of_sessions(made_up, tmp_path):
    root = shutil.copytree(made_up, tmp_path / "data")
    table = probe(root, "--target", "score", "noise", "planted")
    assert table.loc[("score", "embedding"), "value"] > 0.6
    assert table.loc[("noise", "embedding"), "value"] < 0.2
    for name in ("score", "noise"):
        assert table.loc[(name, "embedding"), "n_participants"] == N_PARTICIPANTS
        assert table.loc[(name, "embedding"), "n_sessions"] == 2 * N_PARTICIPANTS
    assert table.loc[("planted", "embedding"), "n_participants"] == N_PARTICIPANTS
    assert np.isnan(table.loc[("planted", "embedding"), "n_sessions"])
    assert {"motion", "acquisition"} < set(table.loc["score"].index)
    page = (root / "swift/group.html").read_text()
    assert "30 participants, 60 sessions" in page


def test_the_site_of_harmonisation_is_probed_once_for_participants_and_sessions(made_up, tmp_path):
    root = shutil.copytree(made_up, tmp_path / "data")
    file = root / "fmriprep/participants.tsv"
    people = pd.read_csv(file, sep="\t")
    people.assign(site=np.arange(len(people)) // 2 % 2).to_csv(file, sep="\t", index=False)
    table = probe(root, "--target", "planted", "score", "--harmonise", "site")
    assert table.index.is_unique
    sets = set(table.loc["site"].index)
    assert sets == {"embedding", "not harmonised", "dummy"}
    assert {"planted", "score", "site"} <= set(table.index.get_level_values(0))


def test_a_covariate_of_sessions(made_up, tmp_path):
    """Then the rows of all targets are sessions, and what the covariate explains is gone."""
    root = shutil.copytree(made_up, tmp_path / "data")
    table = probe(root, "--target", "planted", "noise", "--covariate", "score")
    assert set(table.dropna(subset="n_sessions").index.get_level_values(0)) == {"planted", "noise"}
    with_score = probe(root, "--target", "score")
    without = probe(root, "--target", "score", "--covariate", "visit")
    # the visit says nothing of the score
    assert without.loc[("score", "embedding"), "value"] == pytest.approx(
        with_score.loc[("score", "embedding"), "value"], abs=0.15
    )


def test_participants_stay_whole_in_the_folds(made_up, tmp_path):
    """Otherwise the embeddings, which know the participant, would predict what is the same in both
    of its sessions."""
    root = shutil.copytree(made_up, tmp_path / "data")
    rng = np.random.default_rng(1)
    for file in (root / "fmriprep").glob("sub-*/*_sessions.tsv"):
        table = pd.read_csv(file, sep="\t")
        table.assign(trait=round(rng.normal(), 3)).to_csv(file, sep="\t", index=False)
    table = probe(root, "--target", "trait")
    assert table.loc[("trait", "embedding"), "value"] < 0.2


def test_sessions_without_a_row_or_a_value_are_left_out(made_up, tmp_path):
    root = shutil.copytree(made_up, tmp_path / "data")
    files = sorted((root / "fmriprep").glob("sub-*/*_sessions.tsv"))
    files[0].unlink()
    table = pd.read_csv(files[1], sep="\t", dtype=str)
    table.loc[0, "score"] = "n/a"
    table.to_csv(files[1], sep="\t", index=False)
    files[2].write_text("nothing\n")
    found = probe(root, "--target", "score").loc[("score", "embedding")]
    assert (found["n_participants"], found["n_sessions"]) == (28, 55)


def test_sessions_without_any_table(made_up, tmp_path):
    root = shutil.copytree(made_up, tmp_path / "data")
    for file in (root / "fmriprep").glob("sub-*/*_sessions.tsv"):
        file.unlink()
    table = probe(root, "--target", "planted")
    assert table.loc[("planted", "embedding"), "n_participants"] == N_PARTICIPANTS
    assert "n_sessions" not in table


def test_one_table_for_the_dataset(made_up, tmp_path):
    root = shutil.copytree(made_up, tmp_path / "data")
    tables = []
    for file in sorted((root / "fmriprep").glob("sub-*/*_sessions.tsv")):
        name = file.parent.name.removeprefix("sub-")
        tables.append(pd.read_csv(file, sep="\t").assign(participant_id=name))
        file.unlink()
    together = pd.concat(tables)
    together["session_id"] = together["session_id"].str.removeprefix("ses-")
    together.to_csv(root / "fmriprep" / "sessions.tsv", sep="\t", index=False)
    assert probe(root, "--target", "score").loc[("score", "embedding"), "n_sessions"] == 60


def test_a_participants_table_with_a_row_for_each_session(made_up, tmp_path):
    """What is the same in all sessions of each participant stays a column of participants."""
    root = shutil.copytree(made_up, tmp_path / "data")
    file = root / "fmriprep" / "participants.tsv"
    people = pd.read_csv(file, sep="\t", dtype=str)
    tables = []
    for own in sorted((root / "fmriprep").glob("sub-*/*_sessions.tsv")):
        tables.append(pd.read_csv(own, sep="\t", dtype=str).assign(participant_id=own.parent.name))
        own.unlink()
    merged = pd.concat(tables).rename(columns={"session_id": "session"})
    people.merge(merged, on="participant_id").to_csv(file, sep="\t", index=False)
    table = probe(root, "--target", "score", "planted")
    assert table.loc[("score", "embedding"), "n_sessions"] == 60
    assert table.loc[("planted", "embedding"), "n_participants"] == N_PARTICIPANTS
    assert np.isnan(table.loc[("planted", "embedding"), "n_sessions"])
    written = pd.read_csv(root / "swift" / "participants.tsv", sep="\t")
    assert list(written) == ["participant_id", "age", "planted", "shuffled", "site"]
    assert len(written) == N_PARTICIPANTS


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--target", "score", "--group-by", "scanner"),
            "--group-by scanner: the sessions of sub-00001 are in several groups",
        ),
        (("--covariate", "score"), "score is a column of sessions; name the targets with --target"),
        (("--target", "score", "--covariate", "score"), "the column is also a --target"),
        (("--target", "scores"), "--target scores: there is no such column"),
    ],
)
def test_wrong_calls(made_up, flags, message):
    done = run_app(made_up / "fmriprep", made_up / "swift", "group", *flags)
    assert done.returncode == 2
    assert message in done.stderr
