"""Two networks: the group level refuses to mix them, and shows them side by side."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from app import run_app

from benchmarks.group import write_outputs
from swift_bids.base.backbones import feature_names
from swift_bids.base.errors import UsageError
from swift_bids.group.compare import agreement
from swift_bids.group.load import Embedded, collect_runs
from swift_bids.inputs.run_filter import RunFilter

CALL = ("--target", "planted", "--permutations", "19")


def as_neurostorm(swift, target, noise):
    """Outputs of NeuroSTORM for the same runs, whose embeddings are those of SwiFT plus noise."""
    rng = np.random.default_rng(1)
    for file in sorted(swift.rglob("*_desc-swift_embedding.tsv")):
        folder = target / file.parent.relative_to(swift)
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.read_csv(file, sep="\t", na_values="n/a")
        names = feature_names("swift", 288)
        table[names] += noise * rng.standard_normal(len(names))
        table.columns = [name.replace("swift", "neurostorm") for name in table]
        stem = folder / file.name.replace("desc-swift", "desc-neurostorm")
        table.to_csv(stem, sep="\t", index=False, na_rep="n/a")
        about = json.loads(file.with_suffix(".json").read_text())
        about["Model"] |= {"Name": "NeuroSTORM", "Variant": "neurostorm-mae"}
        about["Model"]["WeightsSHA256"] = "1" * 64
        about["Preprocessing"] |= {"Frame": "neurostorm", "Quantisation": "none"}
        stem.with_suffix(".json").write_text(json.dumps(about))
    return target


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """40 participants with two runs each, and the outputs of two networks."""
    root = tmp_path_factory.mktemp("compare") / "data"
    write_outputs(root, 40, 2, connectivity=False)
    as_neurostorm(root / "swift", root / "neurostorm", noise=3.0)
    for left_out in root.glob("neurostorm/sub-00040/func/*_embedding.json"):
        left_out.unlink()
    return root


def group(root, folder, *flags):
    return run_app(root / "fmriprep", root / folder, "group", *CALL, *flags)


def table_of(root, folder, name):
    return pd.read_csv(root / folder / name, sep="\t", na_values="n/a")


@pytest.fixture(scope="module")
def compared(both):
    done = group(both, "swift", "--compare", both / "neurostorm")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_tables_show_both_on_the_same_runs(both, compared):
    said = compared.stdout + compared.stderr
    assert "lacks 2 run(s), which are not compared: sub-00040_task-rest_run-1" in said
    assert "have no embedding" not in said
    # the tables contain all runs of the folder, also those that the other one lacks
    assert len(table_of(both, "swift", "group_desc-swift_embedding.tsv")) == 80
    assert len(table_of(both, "swift", "group_desc-participants_embedding.tsv")) == 40
    found = table_of(both, "swift", "group_desc-swift_identification.tsv")
    rank1 = found[found["metric"] == "rank1"].set_index("features")["value"]
    n_runs = found[found["metric"] == "rank1"].set_index("features")["n_runs"]
    assert n_runs.tolist() == [80, 78, 80]
    assert list(rank1.index) == ["embedding", "compared embedding", "motion"]
    assert rank1["embedding"] > rank1["motion"]
    probes = table_of(both, "swift", "group_desc-swift_probes.tsv")
    planted = probes[(probes["target"] == "planted") & (probes["metric"] == "auroc")]
    planted = planted.set_index("features")
    assert {"embedding", "compared embedding", "motion"} <= set(planted.index)
    assert planted["n_participants"].unique().tolist() == [39]  # those who have both
    # noise costs accuracy, and the difference to the embedding has an interval
    assert planted.loc["embedding", "value"] > planted.loc["compared embedding", "value"] > 0.5
    assert np.isfinite(planted.loc["compared embedding", ["gain", "gain_low", "gain_high"]]).all()
    reliability = table_of(both, "swift", "group_desc-swift_reliability.tsv")
    medians = reliability.groupby("features")["icc"].median()
    assert medians["embedding"] > medians["compared embedding"] > 0
    assert reliability["feature"].iloc[[0, 287, 288, 575]].tolist() == [
        "swift000",
        "swift287",
        "neurostorm000",
        "neurostorm287",
    ]


def test_page_and_sidecars_say_what_is_compared(both, compared):
    page = (both / "swift" / "group.html").read_text()
    assert "The compared embedding is that of NeuroSTORM (neurostorm-mae) in" in page
    assert "the embedding is that of SwiFT (contrastive). Both exist for 78 runs" in page
    assert re.search(r"alike in the other with a correlation of 0\.\d\d\.", page)
    assert "1" * 64 in page  # the SHA-256 of the compared weights
    assert "Wang C." in page
    assert re.search(r"from the compared embedding \d\.\d\d, (clearly worse|no clear diff)", page)
    about = json.loads((both / "swift" / "group_desc-swift_probes.json").read_text())
    assert about["Compared"]["Embeddings"][0]["variant"] == "neurostorm-mae"
    assert about["Compared"]["Folder"] == str(both / "neurostorm")
    assert 0.02 < about["Compared"]["Agreement"] < 0.5
    assert about["Settings"]["compare"] == str(both / "neurostorm")


def test_a_call_without_compare_has_no_trace_of_it(both, compared, tmp_path):
    root = shutil.copytree(both, tmp_path / "data")
    done = group(root, "swift")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compared embedding" not in (root / "swift" / "group.html").read_text()
    table = table_of(root, "swift", "group_desc-swift_reliability.tsv")
    assert "features" not in table
    assert "quantisation" not in table_of(root, "swift", "group_desc-swift_embedding.tsv")


def test_the_files_of_the_other_network_have_its_name(both):
    done = group(both, "neurostorm")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = table_of(both, "neurostorm", "group_desc-neurostorm_embedding.tsv")
    assert runs["quantisation"].unique().tolist() == ["none"]
    assert "neurostorm287" in runs
    about = json.loads((both / "neurostorm/group_desc-neurostorm_embedding.json").read_text())
    assert "NeuroSTORM" in about["neurostorm000"]["Description"]
    page = (both / "neurostorm" / "group.html").read_text()
    assert "NeuroSTORM embeddings" in page
    assert "SwiFT" not in page
    assert not list((both / "neurostorm").glob("*desc-swift*"))


def test_networks_are_not_mixed(both, tmp_path):
    mixed = shutil.copytree(both / "swift", tmp_path / "mixed")
    shutil.copytree(both / "neurostorm", mixed, dirs_exist_ok=True)
    for flags in ((), ("--allow-mixed",)):
        done = run_app(both / "fmriprep", mixed, "group", *flags)
        assert done.returncode == 2
        assert "several networks" in done.stderr
        assert "NeuroSTORM (78 run(s))" in done.stderr
        assert "--compare" in done.stderr


def test_folders_that_cannot_be_compared(both, tmp_path):
    done = group(both, "swift", "--compare", both / "swift")
    assert done.returncode == 2
    assert "this is the output folder itself" in done.stderr
    done = group(both, "swift", "--compare", both / "absent")
    assert done.returncode == 2
    assert f"--compare {both / 'absent'}: does not exist" in done.stderr
    done = group(both, "swift", "--compare", tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path} has no embeddings" in done.stderr
    other = tmp_path / "other"
    for file in both.glob("neurostorm/sub-00001/func/*_embedding.*"):
        folder = other / "sub-99" / "func"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file.name.replace("sub-00001", "sub-99"))
    done = group(both, "swift", "--compare", other)
    assert done.returncode == 2
    assert "contains none of the runs" in done.stderr


def test_the_folder_with_two_kinds_is_named(both, tmp_path):
    other = shutil.copytree(both / "neurostorm", tmp_path / "other")
    (file, *_) = sorted(other.rglob("sub-*_embedding.json"))
    about = json.loads(file.read_text())
    about["Preprocessing"]["Quantisation"] = "int8"
    file.write_text(json.dumps(about))
    done = group(both, "swift", "--compare", other)
    assert done.returncode == 2
    assert f"--compare {other}: the embeddings are of 2 kinds" in done.stderr


def test_a_folder_that_lacks_many_participants(both, tmp_path):
    """Identification still compares what both have; the probes leave the other embedding out."""
    few = shutil.copytree(both / "neurostorm", tmp_path / "few")
    for number in range(1, 21):
        shutil.rmtree(few / f"sub-{number:05d}")
    root = shutil.copytree(both, tmp_path / "data")
    done = group(root, "swift", "--compare", few)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compared embedding is omitted: 21 of 40 participants lack it" in done.stdout
    probes = table_of(root, "swift", "group_desc-swift_probes.tsv")
    assert "compared embedding" not in set(probes["features"])
    found = table_of(root, "swift", "group_desc-swift_identification.tsv").set_index("features")
    assert found.loc["compared embedding", "n_runs"].unique().tolist() == [38]


def test_folders_inside_the_output_folder_are_not_read(both, tmp_path):
    outer = shutil.copytree(both / "neurostorm", tmp_path / "outer")
    shutil.copytree(both / "swift", outer / "old" / "swift")
    shutil.copytree(both / "neurostorm", outer / "neurostorm")
    runs, problems = collect_runs(outer, RunFilter())
    assert (runs.label, len(runs.table), problems) == ("neurostorm", 78, [])


def test_agreement_of_equal_independent_and_too_few_runs():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"name": range(60)})
    first, other = (Embedded(table, rng.standard_normal((60, 288)), "swift") for _ in range(2))
    scaled = Embedded(table, 3 * first.features + 1, "neurostorm")
    assert agreement(first, scaled) == pytest.approx(1)
    assert abs(agreement(first, other)) < 0.1
    two = Embedded(table[:2], first.features[:2], "swift")
    assert np.isnan(agreement(two, two))


def test_a_damaged_folder_is_named(both, tmp_path):
    copy = shutil.copytree(both / "neurostorm", tmp_path / "copy")
    for file in copy.rglob("*_embedding.tsv"):
        file.write_text("not a table")
    with pytest.raises(UsageError, match="has no embeddings"):
        collect_runs(copy, RunFilter())
