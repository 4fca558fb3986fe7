"""The group level on simulated participant outputs, from its tables to its page in a browser."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from app import require_program, run_app
from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.group import write_outputs
from swift_bids.base.errors import UsageError
from swift_bids.group.average import average_by_participant
from swift_bids.group.figures import probes_figure
from swift_bids.group.load import check_kinds, collect_runs
from swift_bids.inputs.run_filter import RunFilter
from swift_bids.outputs.paths import figure_path

CALL = ("--target", "planted", "--permutations", "19", "--nprocs", "2")


@pytest.fixture(scope="module")
def made_up(made_once):
    """40 participants with two runs each; case and control are planted in the embeddings."""
    return made_once("group", _make_up) / "data"


def _make_up(folder):
    root = folder / "data"
    write_outputs(root, 40, 2, connectivity=True)
    done = run_app(root / "fmriprep", root / "swift", "group", *CALL, "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    (root / "log").write_text(done.stdout)


def copy_of(made_up, tmp_path):
    return shutil.copytree(made_up, tmp_path / "data")


def table_of(root, name):
    return pd.read_csv(root / "swift" / name, sep="\t", na_values="n/a")


def test_participants_are_means_weighted_by_chunks(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    (file,) = root.glob("swift/sub-00001/func/*run-2*_embedding.tsv")
    second = pd.read_csv(file, sep="\t")
    second.assign(n_included=5, mean_fd=np.nan).to_csv(file, sep="\t", index=False, na_rep="n/a")
    runs, _ = collect_runs(root / "swift", RunFilter())
    people = average_by_participant(runs)
    assert people.table["n_included"][0] == 20
    expected = (15 * runs.features[0] + 5 * runs.features[1]) / 20
    np.testing.assert_allclose(people.features[0], expected, rtol=1e-5, atol=1e-6)
    assert people.table["mean_fd"][0] == runs.table["mean_fd"][0]  # the other is not known


def test_tables_join_the_participants_columns(made_up):
    known = pd.read_csv(made_up / "fmriprep" / "participants.tsv", sep="\t")
    runs = table_of(made_up, "group_desc-swift_embedding.tsv")
    people = table_of(made_up, "group_desc-participants_embedding.tsv")
    assert (len(runs), len(people)) == (80, 40)
    assert people["age"].tolist() == known["age"].tolist()
    assert runs["site"].tolist() == known["site"].repeat(2).tolist()
    assert people["n_runs"].unique().tolist() == [2]
    for name in ("embedding", "identification", "probes", "duplicates", "relmat"):
        about = json.loads((made_up / "swift" / f"group_desc-swift_{name}.json").read_text())
        assert about["Embeddings"][0]["weights_sha256"] == "0" * 64
        assert about["Settings"]["permutations"] == 19
        if name != "relmat":
            columns = table_of(made_up, f"group_desc-swift_{name}.tsv").columns
            assert set(columns) <= set(about)


def test_similarity_and_identification(made_up):
    matrix = table_of(made_up, "group_desc-swift_relmat.tsv").set_index("name")
    assert matrix.shape == (80, 80)
    assert list(matrix.index) == list(matrix.columns)
    runs = table_of(made_up, "group_desc-swift_embedding.tsv")
    nearest = runs["nearest"].str.replace("_run-.*", "", regex=True)
    assert nearest.tolist() == runs["name"].str.replace("_run-.*", "", regex=True).tolist()
    found = table_of(made_up, "group_desc-swift_identification.tsv")
    rank1 = found[found["metric"] == "rank1"].set_index("features")
    assert rank1["value"]["embedding"] == 1
    assert rank1["p"]["embedding"] == 1 / 20
    assert set(rank1.index) == {"embedding", "motion", "connectivity"}
    assert len(table_of(made_up, "group_desc-swift_duplicates.tsv")) == 0


def test_planted_labels_are_found(made_up):
    probes = table_of(made_up, "group_desc-swift_probes.tsv")
    auroc = probes[probes["metric"] == "auroc"].set_index(["target", "features"])
    assert auroc["value"]["planted", "embedding"] > 0.95
    assert auroc["p"]["planted", "embedding"] == 1 / 20
    assert auroc["gain_low"]["planted", "connectivity"] > 0
    sets = {"embedding", "positions", "tokens", "connectivity", "motion", "acquisition", "dummy"}
    assert set(probes["features"]) == sets


@pytest.mark.long
def test_the_same_call_gives_the_same_bytes(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    before = {p.name: p.read_bytes() for p in (root / "swift").glob("group*")}
    done = run_app(root / "fmriprep", root / "swift", "group", *CALL)
    assert done.returncode == 0
    assert {p.name: p.read_bytes() for p in (root / "swift").glob("group*")} == before


def change(root, label, **changes):
    """Change what the sidecars of a participant say, by the names of the group table."""
    for sidecar in root.glob(f"swift/sub-{label}/func/*_embedding.json"):
        content = json.loads(sidecar.read_text())
        for key, value in changes.items():
            section = "Model" if key in content["Model"] else "Preprocessing"
            content[section][key] = value
        sidecar.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"WeightsSHA256": "1" * 64}, "weights_sha256"),
        ({"Space": "MNI152NLin2009cAsym"}, "space_id"),
        ({"Normalisation": "voxel+global"}, "normalisation"),
        ({"ModelRepetitionTime": 2.0}, "model_tr"),
    ],
)
def test_different_settings_are_not_mixed_without_allow_mixed(made_up, tmp_path, changes, column):
    root = copy_of(made_up, tmp_path)
    change(root, "00003", **changes)
    before = sorted(p.name for p in (root / "swift").iterdir())
    call = (root / "fmriprep", root / "swift", "group", "--target", "none")
    refused = run_app(*call)
    assert refused.returncode == 2
    assert "2 kinds that cannot be compared" in refused.stderr
    assert re.search(rf"{column}: .*\(78 runs\), .*\(2 runs\)", refused.stderr)
    assert sorted(p.name for p in (root / "swift").iterdir()) == before


def test_kinds_are_mixed_or_chosen_on_demand(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    change(root, "00003", Space="MNI152NLin2009cAsym")
    call = (root / "fmriprep", root / "swift", "group", "--target", "none")
    insisted = run_app(*call, "--allow-mixed", "--permutations", "1")
    assert insisted.returncode == 0
    assert "MIXED: 2 kinds" in insisted.stdout
    assert "The tables mix 2 kinds of embeddings" in (root / "swift/group.html").read_text()
    chosen = run_app(*call, "--exclude-participant-label", "00003", "--permutations", "1")
    assert chosen.returncode == 0
    assert len(table_of(root, "group_desc-swift_embedding.tsv")) == 78


def test_training_trs_can_be_compared(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    change(root, "00003", ModelRepetitionTime=0.72)
    runs, _ = collect_runs(root / "swift", RunFilter())
    assert check_kinds(runs.table, allow_mixed=False) == 1


def test_missing_damaged_and_mixed_up_outputs(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    shutil.rmtree(root / "swift" / "sub-00002")
    for name, content in (("00004", "[]"), ("00005", "null"), ("00006", "{}")):
        next(root.glob(f"swift/sub-{name}/func/*run-1*_embedding.json")).write_text(content)
    nan = next(root.glob("swift/sub-00007/func/*run-1*_embedding.tsv"))
    nan.write_text(nan.read_text().rpartition("\t")[0] + "\tnan\n")
    (twin,) = root.glob("swift/sub-00008/func/*run-1*_embedding.tsv")
    (file,) = root.glob("swift/sub-00009/func/*run-1*_embedding.tsv")
    shutil.copy(twin, file)
    call = (root / "fmriprep", root / "swift", "group", "--target", "none", "--permutations", "1")
    done = run_app(*call)
    assert done.returncode == 1
    assert "1 participant(s) of the input have no embedding: sub-00002" in done.stdout
    assert "failed: 4" in done.stdout
    assert done.stdout.count("embed the run again") == 4
    twins = [f.name.removesuffix("_desc-swift_embedding.tsv") for f in (twin, file)]
    assert f"{twins[0]} and {twins[1]} are nearly identical" in done.stdout
    page = (root / "swift" / "group.html").read_text()
    assert "1 pair(s) of runs from two participants are nearly identical" in page
    assert len(table_of(root, "group_desc-swift_embedding.tsv")) == 74
    assert not (root / "swift" / "group_desc-swift_probes.tsv").exists()  # of an earlier call


def test_columns_that_cannot_be_probed_are_reported(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    table = root / "fmriprep" / "participants.tsv"
    known = pd.read_csv(table, sep="\t", dtype=str)
    known["all_one"], known["seldom"] = "x", ["y"] * 3 + ["z"] * 37
    known.to_csv(table, sep="\t", index=False)
    call = (root / "fmriprep", root / "swift", "group", "--permutations", "1")
    done = run_app(*call, "--target", "all_one", "seldom")
    assert done.returncode == 1
    assert "--target all_one: all participants have the same value, x" in done.stdout
    assert "--target seldom: a class has too few participants (y: 3)" in done.stdout
    both = run_app(*call, "--target", "age", "--covariate", "age")
    assert (both.returncode, "is also a --target" in both.stderr) == (2, True)
    wrong = run_app(*call, "--target", "agee")
    assert wrong.returncode == 2
    assert (
        "--target agee: there is no such column in participants.tsv; did you mean age"
        in wrong.stderr
    )


def test_participants_columns_that_clash_are_renamed(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    table = root / "fmriprep" / "participants.tsv"
    known = pd.read_csv(table, sep="\t", dtype=str)
    for number, name in enumerate(["mean_fd", "outlier", "name", "participants_name", "Settings"]):
        known[name] = [str(100 * number + i) for i in range(40)]
    known.to_csv(table, sep="\t", index=False)
    call = (root / "fmriprep", root / "swift", "group", "--target", "none", "--permutations", "1")
    done = run_app(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = table_of(root, "group_desc-swift_embedding.tsv")
    assert len(set(runs.columns)) == len(runs.columns)
    assert runs["participants_mean_fd"][::2].tolist() == list(range(40))
    assert runs["mean_fd"].max() < 1
    assert runs["participants_participants_name"][::2].tolist() == list(range(200, 240))
    assert runs["participants_name"][::2].tolist() == list(range(300, 340))
    about = json.loads((root / "swift" / "group_desc-swift_embedding.json").read_text())
    assert about["Settings"]["permutations"] == 1


def test_a_run_in_two_resolutions_is_one_run(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    for file in list(root.glob("swift/sub-00001/func/*run-1*_embedding.*")):
        shutil.copy(file, file.with_name(file.name.replace("_res-2", "")))
    call = (root / "fmriprep", root / "swift", "group", "--target", "none", "--permutations", "1")
    refused = run_app(*call)
    assert refused.returncode == 2
    assert "2 runs exist in several spaces, resolutions or echoes" in refused.stderr
    assert run_app(*call, "--res", "2").returncode == 0
    assert len(table_of(root, "group_desc-swift_embedding.tsv")) == 80
    assert run_app(*call, "--res", "native").returncode == 0
    assert len(table_of(root, "group_desc-swift_embedding.tsv")) == 1
    about = json.loads((root / "swift" / "group_desc-swift_embedding.json").read_text())
    assert about["Settings"]["res"] == ["native"]


@pytest.mark.parametrize(
    ("space", "wanted"),
    [
        ("X", True),
        ("Y", False),
        ("X:res-2", True),
        ("X:res-02", True),
        ("X:res-native", False),
        ("X:cohort-1", True),
        ("X:cohort-2", False),
        ("X:cohort-1:res-2", True),
        ("X:nonsense", False),
    ],
)
def test_space_means_the_same_at_both_levels(space, wanted):
    assert RunFilter(spaces=[space]).accepts("sub-1_task-a_space-X_cohort-1_res-02") is wanted


def test_a_damaged_file_of_positions_fails_one_run(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    files = sorted(root.glob("swift/sub-*/func/*_positions.safetensors"))
    files[0].write_bytes(b"\x08")  # the other run of this participant remains
    call = (root / "fmriprep", root / "swift", "group", "--target", "planted")
    done = run_app(*call, "--permutations", "1")
    assert done.returncode == 1
    assert done.stdout.count("positions.safetensors cannot be read") == 1
    probes = table_of(root, "group_desc-swift_probes.tsv").set_index(["target", "features"])
    assert probes.loc[("planted", "positions"), "n_participants"].unique() == 40
    files[1].unlink()
    run_app(*call, "--permutations", "1")
    probes = table_of(root, "group_desc-swift_probes.tsv").set_index(["target", "features"])
    assert probes.loc[("planted", "tokens"), "n_participants"].unique() == 39
    for file in files[2:20]:
        file.unlink()
    done = run_app(*call, "--permutations", "1")
    assert "positions and tokens are omitted: the outputs of 10 of 40" in done.stdout
    probes = table_of(root, "group_desc-swift_probes.tsv")
    assert {"positions", "tokens"}.isdisjoint(probes["features"])
    assert probes["n_participants"].unique() == 40


def test_a_damaged_table_of_parcels_fails_one_run(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    tables = sorted(root.glob("swift/sub-*/func/*_timeseries.tsv"))
    tables[0].write_text("")
    tables[2].with_suffix(".json").write_text('{"Atlas": null}')
    tables[4].write_text("only\n1\n2\n")
    call = (root / "fmriprep", root / "swift", "group", "--target", "none", "--permutations", "1")
    done = run_app(*call)
    assert done.returncode == 1
    assert done.stdout.count("or its sidecar cannot be read") == 3
    found = table_of(root, "group_desc-swift_identification.tsv")
    assert found[found["features"] == "connectivity"]["n_runs"].unique().tolist() == [77]
    about = {"Atlas": {"Name": "other", "SHA256": None}}
    tables[6].with_suffix(".json").write_text(json.dumps(about))
    done = run_app(*call[:3], "--target", "planted", "--permutations", "1")
    assert "baseline connectivity is omitted" in done.stdout
    assert "has other parcels or other confounds regressed out than the runs before" in done.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("sub-", "S"), "lists none of these participants"),
        (lambda t: t + t.splitlines()[1] + "\n", "lists participants twice"),
    ],
)
def test_problems_of_participants_tsv_are_reported(made_up, tmp_path, change, said):
    root = copy_of(made_up, tmp_path)
    table = root / "fmriprep" / "participants.tsv"
    table.write_text(change(table.read_text()))
    call = (root / "fmriprep", root / "swift", "group", "--target", "none", "--permutations", "1")
    assert run_app(*call).stdout.count(said) == 1


def test_participants_tsv_that_is_not_utf8(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    table = root / "fmriprep" / "participants.tsv"
    table.write_bytes(table.read_bytes().replace(b"control", b"contr\xf6l"))
    call = (root / "fmriprep", root / "swift", "group", "--target", "none", "--permutations", "1")
    said = run_app(*call).stdout
    assert "participants.tsv: is not in UTF-8, so it is read as Windows saves text" in said
    runs = table_of(root, "group_desc-swift_embedding.tsv")
    assert set(runs["planted"]) == {"case", "contröl"}


def test_many_runs_have_neighbours_instead_of_a_matrix(made_up, tmp_path, monkeypatch):
    from swift_bids.cli import main as cli

    root = copy_of(made_up, tmp_path)
    for name in ("MPLCONFIGDIR", "NIPYPE_CONFIG_DIR"):  # which the call sets for its own process
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("swift_bids.group.tables.FULL_MATRIX", 50)
    monkeypatch.setattr("swift_bids.group.page.MAX_POINTS", 30)
    monkeypatch.setattr("swift_bids.group.page.MAX_ROWS", 20)
    call = (root / "fmriprep", root / "swift", "group", "--target", "none", "--permutations", "1")
    assert cli.main(list(map(str, call))) == 0
    assert not (root / "swift" / "group_desc-swift_relmat.tsv").exists()
    neighbours = table_of(root, "group_desc-neighbours_relmat.tsv")
    assert len(neighbours) == 800
    page = (root / "swift" / "group.html").read_text()
    assert "The map shows 30 of 80 runs" in page
    assert "The table shows 20 of 80 runs, including all outliers and duplicates" in page
    assert page.count('<tr><td><a href="sub-') == 20


@pytest.mark.parametrize("labels", [["00001"], ["00001", "00002"]])
def test_very_few_runs_make_a_page_without_warnings(made_up, tmp_path, labels):
    root = copy_of(made_up, tmp_path)
    for file in root.glob("swift/sub-*/func/*run-2*"):
        file.unlink()
    call = (root / "fmriprep", root / "swift", "group", "--permutations", "1")
    done = run_app(*call, "--participant-label", *labels)
    assert done.returncode == 0
    assert "Warning" not in done.stdout + done.stderr
    page = (root / "swift" / "group.html").read_text()
    assert f"<strong>{len(labels)}</strong> run" in page


def test_dry_run_lists_the_runs(made_up):
    call = (made_up / "fmriprep", made_up / "swift", "group", "--participant-label", "00001")
    names = [f"sub-00001_task-rest_run-{n}_space-MNI152NLin6Asym_res-2" for n in (1, 2)]
    assert run_app(*call, "--dry-run").stdout.splitlines()[1:] == names
    assert json.loads(run_app(*call, "--dry-run=json").stdout) == {"runs": names}
    none = run_app(*call, "--session-label", "1")
    assert (none.returncode, "no embeddings of the requested runs" in none.stderr) == (2, True)


def test_dry_run_escapes_control_characters(made_up, tmp_path):
    root = copy_of(made_up, tmp_path)
    for file in list(root.glob("swift/sub-00001/func/*run-1*_embedding.*")):
        file.rename(file.with_name(file.name.replace("run-1", "run-1\x1b[2J\nrun")))
    said = run_app(root / "fmriprep", root / "swift", "group", "--dry-run").stdout
    assert "\x1b" not in said
    assert r"run-1\x1b[2J\nrun" in said
    assert len(said.splitlines()) == 81


@pytest.fixture(scope="module")
def browser():
    chromium = require_program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, file):
    """The page, its console messages and errors, and its requests."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.set_default_timeout(600_000)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    return page, said, asked


def test_a_run_under_the_pointer_shows_its_slices(made_up, tmp_path, browser):
    root = copy_of(made_up, tmp_path)
    for name in table_of(made_up, "group_desc-swift_embedding.tsv")["name"]:
        picture = figure_path(root / "swift", name, "input")
        picture.parent.mkdir(exist_ok=True)
        Image.new("L", (40, 30)).save(picture)
    done = run_app(root / "fmriprep", root / "swift", "group", "--target", "none")
    assert done.returncode == 0, done.stdout
    page, said, asked = open_page(browser, root / "swift" / "group.html")
    shown = page.locator("#preview img")
    assert shown.is_hidden()
    box = page.locator("#map .points path").nth(3).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#preview figcaption", has_text="task-rest").wait_for()
    name = page.inner_text("#preview figcaption")
    assert shown.is_visible()
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    assert asked[1:] == [figure_path(root / "swift", name, "input").as_uri()]
    assert said == []


def test_page_in_a_browser(made_up, browser):
    file = made_up / "swift" / "group.html"
    page, said, asked = open_page(browser, file)
    assert page.locator("#map .points path").count() == 80
    page.select_option("#map-column", "planted")
    legend = page.locator("#map .legendtext")
    legend.nth(1).wait_for()
    assert legend.all_text_contents() == ["case", "control"]
    colours = page.locator("#map .points path").evaluate_all(
        "paths => [...new Set(paths.map(path => path.style.fill))].sort()"
    )
    assert colours == ["rgb(0, 114, 178)", "rgb(213, 94, 0)"]
    page.select_option("#map-column", "age")
    page.locator("#map .cbtitle").wait_for()

    # the keyboard sorts, and the order is that of the table
    runs = table_of(made_up, "group_desc-swift_embedding.tsv")
    head = page.locator("#table-of-runs th", has_text="Mean FD")
    head.focus()
    page.keyboard.press("Enter")
    page.locator('#table-of-runs th[aria-sort="descending"]').wait_for()
    top = runs.loc[runs["mean_fd"].idxmax()]
    page.locator("#table-of-runs tbody tr:first-child", has_text=top["name"]).wait_for()
    first = page.locator("#table-of-runs tbody tr").first.locator("td")
    assert first.nth(0).inner_text() == top["name"]
    assert first.nth(2).inner_text() == f"{top['mean_fd']:.2f}"
    assert page.locator("#table-of-runs tbody tr").count() == 80
    page.fill("#runs-filter", "sub-00007 RUN-2")
    shown = page.locator("#table-of-runs tbody tr:visible")
    assert [text.split("_space")[0] for text in shown.locator("a").all_inner_texts()] == [
        "sub-00007_task-rest_run-2"
    ]
    page.fill("#runs-filter", "")
    assert shown.count() == 80
    page.evaluate("window.open = (url) => { window.opened = url; }")
    page.locator("#map .points path").first.click(force=True)
    page.wait_for_function("window.opened")
    assert re.fullmatch(r"sub-000\d\d\.html", page.evaluate("window.opened"))
    assert page.locator("#probes svg").count() == 1
    assert (
        "planted can be predicted from the mean embedding, better than"
        in page.locator("#summary").inner_text()
    )
    page.emulate_media(media="print")
    assert not page.locator("#map-column").is_visible()
    assert (said, asked) == ([], [file.as_uri()])


def test_probes_of_a_metric_share_a_scale_that_no_outlier_stretches():
    """One participant far from all others used to give an axis of 1e14."""
    scores = {"age": (0.5, -0.02), "weight": (-1e14, -0.1), "planted": (0.9, 0.5)}
    rows = [
        {
            "target": target,
            "features": features,
            "metric": "auroc" if target == "planted" else "r2",
            "value": value,
            "low": value - 0.1,
            "high": value + 0.1,
        }
        for target, values in scores.items()
        for features, value in zip(("embedding", "dummy"), values)
    ]
    age, weight, planted = probes_figure(pd.DataFrame(rows)).axes
    assert age.get_xlim() == weight.get_xlim()
    left, right = age.get_xlim()
    assert left == -1
    assert 0.6 < right < 0.8
    assert planted.get_xlim()[0] > 0.3
    markers = [line.get_marker() for line in weight.lines if line.get_marker() in ("<", "o")]
    assert markers == ["<", "o"]


def test_names_are_escaped_on_the_page(made_up, tmp_path, browser):
    root = copy_of(made_up, tmp_path)
    for file in root.glob("swift/sub-*/func/*_timeseries.*"):
        file.unlink()  # a probe less
    table = root / "fmriprep" / "participants.tsv"
    known = pd.read_csv(table, sep="\t", dtype=str)
    bad = "</script><script>document.title='x'</script><img src=x onerror=\"document.title='y'\">"
    known[bad] = [bad + "a", bad + "b"] * 20
    known["$x_1$"] = ["{{ 7 * 7 }}", "b"] * 20
    known.to_csv(table, sep="\t", index=False)
    call = (root / "fmriprep", root / "swift", "group", "--permutations", "1")
    done = run_app(*call, "--target", bad, "$x_1$")
    assert done.returncode == 0, done.stdout + done.stderr
    file = root / "swift" / "group.html"
    page, said, asked = open_page(browser, file)
    page.select_option("#map-column", bad)
    page.locator("#map .legendtext").nth(1).wait_for()
    page.wait_for_timeout(300)
    assert page.title() == "Group - SwiFT embeddings"
    assert bad in page.locator("#probes").inner_text()
    assert "{{ 7 * 7 }}" in page.locator("#probes").inner_text()
    assert page.locator("img:not(figure img)").count() == 0
    assert (said, asked) == ([], [file.as_uri()])


def test_outputs_with_wrong_types(tmp_path):
    """A damaged run is named and does not stop the others."""
    folder = tmp_path / "sub-1" / "func"
    folder.mkdir(parents=True)
    made = {"Model": {}, "Preprocessing": {}, "RepetitionTime": "2", "GeneratedBy": [{}]}
    (folder / "sub-1_task-a_desc-swift_embedding.json").write_text(json.dumps(made))
    (folder / "sub-1_task-a_desc-swift_embedding.tsv").write_text("x" * 200_000)
    with pytest.raises(UsageError, match=r"cannot be read \(.*field larger than field limit"):
        collect_runs(tmp_path, RunFilter())


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("tsnr", None, "it has no column tsnr"),
        ("n_included", None, "it has no column n_included"),
        ("n_chunks", "inf", "cannot convert float infinity"),
        ("swift287", "inf", "is not a finite number"),
    ],
)
def test_tables_without_needed_columns(made_up, tmp_path, column, value, said):
    """Tables of an earlier version, or edited ones, used to end in a traceback."""
    root = copy_of(made_up, tmp_path)
    (file,) = root.glob("swift/sub-00001/func/*run-1*_embedding.tsv")
    table = pd.read_csv(file, sep="\t")
    table = table.drop(columns=column) if value is None else table.assign(**{column: value})
    table.to_csv(file, sep="\t", index=False)
    runs, problems = collect_runs(root / "swift", RunFilter())
    assert len(runs.table) == 79
    assert [said in problem.reason for problem in problems] == [True]


def test_umap_is_offered_where_it_is_installed(made_up, monkeypatch):
    import sys
    import types

    from swift_bids.group import page as group_report

    class UMAP:
        def __init__(self, n_neighbors, random_state, n_jobs):
            assert (n_neighbors, random_state, n_jobs) == (15, 0, 1)

        def fit_transform(self, features):
            return features[:, :2]

    fake = types.ModuleType("umap")
    fake.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", fake)
    features = np.random.default_rng(0).standard_normal((30, 5))
    places, labels = group_report._umap(features)
    np.testing.assert_array_equal(places, features[:, :2])
    assert labels == ("UMAP 1", "UMAP 2")


def test_only_participants_that_are_wanted_can_be_missing(made_up):
    chosen = RunFilter(participants=["00001", "00002", "lost"], excluded=["00002"])
    runs, problems = collect_runs(made_up / "swift", chosen)
    assert set(runs.table["participant_id"]) == {"sub-00001"}
    assert [problem.name for problem in problems] == ["sub-lost"]
