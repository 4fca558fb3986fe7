"""The plugins that run the nodes, without a cluster; test_slurm.py runs them with one."""

import os
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import pytest
from app import ROOT, run_app
from make_data import write_derivative
from nipype import Node
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, TraitedSpec, traits

from swift_bids.base.errors import UsageError
from swift_bids.cli.parse import parse_arguments
from swift_bids.cli.settings import cluster_settings
from swift_bids.execution import slurm
from swift_bids.execution.plugins import Plugin, check_scripts_folder, choose_plugin

MARK = "20261124-120000_x"


def plugin_of(*flags, output="out"):
    args = parse_arguments(["in", str(output), "participant", *map(str, flags)])
    return choose_plugin(cluster_settings(args))


@pytest.fixture
def plugin_file(tmp_path):
    def write(text):
        file = tmp_path / "plugin.yml"
        file.write_text(text)
        return file

    return write


def test_no_plugin():
    assert plugin_of() is None
    assert plugin_of("--nprocs", "2") is None


def test_slurm_flags_choose_the_plugin(programs):
    jobs = plugin_of("--slurm", "--sbatch-args", "--partition=long")
    assert (jobs.name, jobs.remote, jobs.runs_per_workflow) == ("SLURM", True, 50)
    assert jobs.arguments == {"max_jobs": 100, "sbatch_args": "--partition=long"}
    graph = plugin_of("--slurm-graph")
    assert (graph.name, graph.arguments, graph.runs_per_workflow) == ("SLURMGraph", {}, None)
    with pytest.raises(UsageError, match="add one"):
        plugin_of("--sbatch-args", "--partition=long")
    with pytest.raises(SystemExit):
        plugin_of("--slurm", "--slurm-graph")


def test_plugin_file(plugin_file, programs):
    shipped = plugin_of("--use-plugin", ROOT / "examples" / "plugin.yml")
    assert (shipped.name, shipped.runs_per_workflow) == ("SLURM", 25)
    given = plugin_file("plugin: MultiProc\nplugin_args:\n  n_procs: 3\n")
    local = plugin_of("--nipype_plugin_file", given)  # fMRIPrep's older name
    assert (local.name, local.remote, local.arguments) == ("MultiProc", False, {"n_procs": 3})
    joined = plugin_of(
        *("--use-plugin", plugin_file("plugin: SLURM\nplugin_args: {sbatch_args: -A me}\n")),
        *("--sbatch-args", "--time=10"),
    )
    assert joined.arguments["sbatch_args"] == "-A me --time=10"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no plugin"),
        ("plugin: [SLURM]", "names no plugin"),
        ("{", "cannot be read"),
        ("plugin: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("plugin: SLURM\nplugin_args: 3", "plugin_args is not a table of names and values"),
        ("plugin: Slurm", "nipype has no plugin Slurm; it has Condor"),
        ("plugin: SGEGraph", "does not wait for them"),
        ("plugin: SLURM\nplugin_args: {max_jobs: many}", "max_jobs is 'many', not a whole number"),
        ("plugin: SLURM\nplugin_args: {max_jobs: 0}", "max_jobs is 0, not a whole number of"),
        ("plugin: SLURM\nplugin_args: {sbatch_args: 5}", "sbatch_args is 5, not text"),
        ("plugin: SLURM\nplugin_args: {sbatch_args: [-c4]}", "sbatch_args is .*, not text"),
        ('plugin: SLURM\nplugin_args: {sbatch_args: "\'"}', "No closing quotation"),
        (
            "plugin: MultiProc\nplugin_args: {n_gpu_procs: two}",
            "n_gpu_procs is 'two', not a whole number",
        ),
        ("plugin: IPython", "nipype's plugin IPython cannot be used"),
    ],
)
def test_invalid_plugin_file(plugin_file, programs, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        plugin_of("--use-plugin", plugin_file(text))


def test_missing_plugin_file(tmp_path):
    """The app refuses it before it writes anything."""
    write_derivative(tmp_path / "in", "sub-1_task-a")
    call = (tmp_path / "in", tmp_path / "out", "participant", "--random-weights")
    done = run_app(*call, "--use-plugin", tmp_path / "none.yml")
    assert done.returncode == 2
    assert f"--use-plugin {tmp_path / 'none.yml'}: cannot be read" in done.stderr
    assert not (tmp_path / "out").exists()


class _Input(BaseInterfaceInputSpec):
    use_gpu = traits.Bool()


class _Network(SimpleInterface):
    input_spec, output_spec = _Input, TraitedSpec


class _Other(SimpleInterface):
    input_spec, output_spec = BaseInterfaceInputSpec, TraitedSpec


@pytest.mark.parametrize(
    ("flags", "gpu", "expected"),
    [
        ([], False, ["--mem=3G", "--cpus-per-task=4"]),
        ([], True, ["--mem=3G", "--cpus-per-task=4", "--gres=gpu:1"]),
        (["--sbatch-args", "--mem=9G --gpus=2"], True, ["--cpus-per-task=4"]),
        (["--sbatch-args", "-p gpu -c 4"], True, ["--mem=3G", "--gres=gpu:1"]),
        (["--sbatch-args", "-c4 -G 1"], True, ["--mem=3G"]),
        (["--sbatch-args", "--cpus-per-gpu=4 --mem-per-cpu=2G"], True, ["--gres=gpu:1"]),
        (
            ["--sbatch-args", "--gres=lscratch:20 --mem-bind=local"],
            True,
            ["--mem=3G", "--cpus-per-task=4", "--gres=gpu:1"],
        ),
        (["--sbatch_network_args", "--gres=gpu:a100:1"], True, ["--mem=3G", "--cpus-per-task=4"]),
    ],
)
def test_requests_of_a_job(tmp_path, programs, flags, gpu, expected):
    plugin = plugin_of("--slurm", *flags)
    options = plugin.arguments.get("sbatch_args"), plugin.network_args
    node = Node(_Network(use_gpu=gpu), name="embed", mem_gb=1.2, n_procs=4)
    slurm.request_resources(node, *options, MARK, tmp_path)
    log = tmp_path / "slurm-%j.log"
    beginning = [f"--comment={MARK}", f"--output={log}", f"--error={log}"]
    assert node.plugin_args["requests"] == beginning + expected
    assert node.plugin_args["network_options"] == (plugin.network_args or "").split()
    other = Node(_Other(), name="crop", mem_gb=0.5)
    slurm.request_resources(other, *options, MARK, tmp_path)
    words = other.plugin_args["requests"] + other.plugin_args["network_options"]
    assert "gpu" not in " ".join(words)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Replace SLURM's programs with scripts that record their calls in `calls`: (name, script)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "RETRY_INTERVAL", 0)

    def make(name, script):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "$(basename $0) $*" >> {tmp_path}/calls\n{script}\n')
        program.chmod(0o755)

    for name in slurm.Slurm.PROGRAMS:
        make(name, "true")
    return make


@pytest.fixture
def node():
    made = Node(_Other(), name="crop")
    made.plugin_args = {"requests": ["--mem=1G"], "network_options": ["--gres=gpu:1"]}
    return made


def test_options_reach_sbatch_unchanged(tmp_path, programs, node):
    """The user's options override the app's, and no shell splits names with spaces."""
    programs("sbatch", 'printf "%s\n" "$@" > ' + str(tmp_path / "words") + "; echo '17;cluster'")
    script = f"{tmp_path}/a (b) $x; O'Brien.sh"
    sbatch = slurm.Sbatch("--account my_lab -J 'a b'", MARK)
    assert sbatch.submit(script, node, "--dependency=afterok:3") == 17
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:3] == ["--parsable", "--job-name=crop", "--mem=1G"]
    assert words[3:7] == ["--account", "my_lab", "-J", "a b"]
    assert words[7:] == ["--gres=gpu:1", "--dependency=afterok:3", script]


def test_reason_for_a_refused_job(tmp_path, programs, node):
    programs("sbatch", "echo 'error: AssocMaxSubmitJobLimit' >&2; exit 1")
    sbatch = slurm.Sbatch(None, MARK)
    for n_calls in (slurm.MAX_TRIES, slurm.MAX_TRIES + 1):  # after a refused job, one try is enough
        with pytest.raises(slurm.Refused, match=r"job of crop \(error: AssocMaxSubmitJobLimit\)"):
            sbatch.submit("x.sh", node)
        assert (tmp_path / "calls").read_text().count("sbatch") == n_calls
    programs("sbatch", "echo 7")
    assert sbatch.submit("x.sh", node) == 7
    programs("sbatch", "echo 'error: AssocMaxSubmitJobLimit' >&2; exit 1")
    (tmp_path / "calls").unlink()
    with pytest.raises(slurm.Refused):
        sbatch.submit("x.sh", node)
    assert (tmp_path / "calls").read_text().count("sbatch") == slurm.MAX_TRIES
    plugin = slurm.Slurm({}, MARK)
    number = plugin._submit_batchtask("x.sh", node)
    assert "AssocMaxSubmitJobLimit" in plugin._get_result(number)["traceback"][0]


def test_job_stays_pending_when_squeue_fails(programs, node):
    """nipype takes a failed squeue for the end of the job."""
    programs("sbatch", "echo 5")
    plugin = slurm.Slurm({}, MARK)
    assert plugin._submit_batchtask("x.sh", node) == 5
    programs("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert plugin._is_pending(5)
    plugin._last_query = 0
    programs("squeue", f"echo '5 COMPLETING {MARK}'; echo '6 RUNNING other'")
    assert plugin._is_pending(5)
    plugin._last_query = 0
    programs("squeue", "echo '6 RUNNING other'")
    assert not plugin._is_pending(5)


def test_jobs_are_queried_by_user_id(tmp_path, programs, monkeypatch):
    monkeypatch.setenv("LOGNAME", "someoneelse")
    lines = (f"5 RUNNING {MARK}", "6 RUNNING other", f"7_1 COMPLETING {MARK}", "8 PENDING")
    programs("squeue", "".join(f"echo '{line}';" for line in lines))
    assert slurm.jobs(MARK) == ["5", "7_1"]
    assert slurm.jobs(MARK, ended=["COMPLETING"]) == ["5"]
    assert f"--user={os.getuid()} " in (tmp_path / "calls").read_text()


def test_refused_jobs_fail_their_runs(tmp_path, programs, small_bundle):
    """The call finishes with exit code 1 and leaves no jobs. nipype alone ends with a traceback, or
    reports runs as done that never started."""
    for label in "12":
        write_derivative(tmp_path / "in", f"sub-{label}_task-a")
    programs("sbatch", "echo 'error: invalid account' >&2; exit 1")
    call = (tmp_path / "in", tmp_path / "out", "participant", "--weights", small_bundle)
    for flag in ("--slurm", "--slurm-graph"):
        done = run_app(*call, flag)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("  sub-")]
        assert len(lines) == 2
        assert all("error: invalid account" in line for line in lines)
        assert not list((tmp_path / "out").rglob("*_embedding.tsv"))


@pytest.fixture(autouse=True)
def no_jobs_from_other_tests(monkeypatch):
    monkeypatch.setattr(slurm, "_submitted", defaultdict(set))


def test_known_jobs_are_cancelled_before_squeue(tmp_path, programs, caplog, node):
    """A squeue that took more than 2.5 s used to leave no time to cancel the jobs."""
    programs("sbatch", "echo 5")
    plugin = slurm.Slurm({}, MARK)
    for number in (5, 7):
        programs("sbatch", f"echo {number}")
        assert plugin._submit_batchtask("x.sh", node) == number
    programs("squeue", f"echo '7 RUNNING {MARK}'")
    assert not plugin._is_pending(5)
    programs("squeue", "exec sleep 3600")
    slurm.cancel_jobs(MARK, 1)
    assert (tmp_path / "calls").read_text().count("scancel 7\n") == 1
    assert caplog.text == ""
    programs("scancel", "exit 1")
    slurm.cancel_jobs(MARK, 1)
    assert "SLURM may still have jobs of this call" in caplog.text


def test_cancelling_jobs_has_a_time_limit(tmp_path, programs, caplog):
    """Slow jobs, or a SLURM that did not answer, used to delay the end after Ctrl-C by minutes."""
    programs("squeue", f"test -e {tmp_path}/gone || echo '5 RUNNING {MARK}'")
    programs("scancel", f"touch {tmp_path}/gone")
    slurm.cancel_jobs(MARK, 60)
    programs("squeue", f"echo '5 COMPLETING {MARK}'")
    slurm.cancel_jobs(MARK, 60)
    assert (tmp_path / "calls").read_text().count("scancel 5\n") == 1
    assert caplog.text == ""
    programs("squeue", f"test -e {tmp_path}/asked && exec sleep 3600; echo '5 RUNNING {MARK}'")
    programs("scancel", f"touch {tmp_path}/asked; exec sleep 3600")
    slurm.cancel_jobs(MARK, 1)  # returns, though both would sleep for an hour
    assert "SLURM may still have jobs of this call" in caplog.text


def test_a_refused_job_only_fails_its_run(tmp_path, programs):
    """It used to fail all runs of the graph, even those whose jobs had been submitted."""
    programs("sbatch", 'case "$*" in *sub_2*) echo "error: no" >&2; exit 1;; esac; echo 7')
    nodes = []
    for run in ("sub_1_wf", "sub_2_wf", "sub_3_wf"):
        for name in ("normalise", "crop", "embed"):
            made = Node(_Other(), name=name)
            made._hierarchy = f"whole.{run}"
            made.plugin_args = {"requests": [], "network_options": []}
            nodes.append(made)
    files = [str(tmp_path / f"{n._hierarchy}.{n.name}.py") for n in nodes]
    before = {i: [i - 2, i - 1] * (i % 3 == 2) for i in range(9)}
    graph = slurm.SlurmGraph({}, MARK)
    graph._submit_graph(files, before, nodes)
    assert list(graph.refused) == ["sub_2_wf"]
    assert "SLURM refused the job of normalise (error: no)" in graph.refused["sub_2_wf"]
    calls = (tmp_path / "calls").read_text()
    assert calls.count("sub_2") == slurm.MAX_TRIES
    assert (calls.count("sub_1"), calls.count("sub_3")) == (3, 3)
    assert calls.count("--dependency=afterok:7:7 --kill-on-invalid-dep=yes") == 2


@pytest.mark.parametrize(
    ("plugin", "folder", "sentence"),
    [
        ("SLURM", "O'Brien", 'with "\'" in its path'),
        ("SLURM", "a\\b", r"with '\\\\' in its path"),
        ("SLURM", "a\nb", r"with '\\n' in its path"),
        ("SLURMGraph", 'x"; import os', None),
        ("SGE", "$(true)", r"with '\$' '\(' '\)' in its path"),
        ("SGE", "a b", "with ' ' in its path"),
        ("SGE", "a-b_c.d+e", None),
    ],
)
def test_work_folders_that_break_job_scripts(plugin, folder, sentence):
    """nipype writes the path unchanged into Python strings and shell commands."""
    with pytest.raises(UsageError, match=sentence) if sentence else nullcontext():
        check_scripts_folder(Plugin(plugin), Path("/work", folder))


def test_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="sbatch, squeue, scancel cannot be found; run an"):
        plugin_of("--slurm")


def test_empty_logs_are_removed(tmp_path):
    (tmp_path / "slurm-1.log").touch()
    (tmp_path / "slurm-2.log").write_text("word")
    slurm.remove_empty_logs([tmp_path])
    assert [file.name for file in tmp_path.iterdir()] == ["slurm-2.log"]


@pytest.mark.long
@pytest.mark.parametrize("plugin", ["Linear", "MultiProc"])
def test_local_plugins(tmp_path, small_bundle, plugin_file, plugin):
    for label in "12":
        write_derivative(tmp_path / "in", f"sub-{label}_task-a")
    call = (tmp_path / "in", tmp_path / "out", "participant", "--weights", small_bundle)
    done = run_app(*call, "--use-plugin", plugin_file(f"plugin: {plugin}"), "--nprocs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").rglob("*_embedding.tsv"))) == 2
