"""Plugins that a call asks for, without a cluster; with one: test_slurm.py."""

import pytest
from conftest import ROOT, run_app, write_derivative
from nipype import Node
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, TraitedSpec, traits

from swift_bids.cluster import ask_slurm, chosen_plugin, instance, remove_empty_logs
from swift_bids.errors import UsageError
from swift_bids.parser import parse_arguments

MARK = "20261124-120000_x"


def plugin_of(*flags, output="out"):
    return chosen_plugin(parse_arguments(["in", str(output), "participant", *map(str, flags)]))


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


def test_shorthands():
    slurm = plugin_of("--slurm", "--sbatch-args", "--partition=long")
    assert (slurm.name, slurm.elsewhere, slurm.runs_at_once) == ("SLURM", True, 50)
    assert slurm.arguments == {"max_jobs": 100, "sbatch_args": "--partition=long"}
    graph = plugin_of("--slurm-graph")
    assert (graph.name, graph.arguments, graph.runs_at_once) == ("SLURMGraph", {}, None)
    assert type(instance(graph)).__name__ == "SLURMGraphPlugin"
    with pytest.raises(UsageError, match="add one"):
        plugin_of("--sbatch-args", "--partition=long")
    with pytest.raises(SystemExit):
        plugin_of("--slurm", "--slurm-graph")


def test_plugin_file(plugin_file):
    shipped = plugin_of("--use-plugin", ROOT / "examples" / "plugin.yml")
    assert (shipped.name, shipped.runs_at_once) == ("SLURM", 25)
    given = plugin_file("plugin: MultiProc\nplugin_args:\n  n_procs: 3\n")
    local = plugin_of("--nipype_plugin_file", given)  # fMRIPrep's older name
    assert (local.name, local.elsewhere, local.arguments) == ("MultiProc", False, {"n_procs": 3})
    joined = plugin_of(
        *("--use-plugin", plugin_file("plugin: SLURM\nplugin_args: {sbatch_args: -A me}\n")),
        *("--sbatch-args", "--time=10"),
    )
    assert joined.arguments["sbatch_args"] == "-A me --time=10"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no plugin"),
        ("plugin: [SLURM]", "holds no plugin"),
        ("{", "cannot be read"),
        ("plugin: !!python/object/apply:os.system ['true']", "cannot be read"),
        ("plugin: SLURM\nplugin_args: 3", "plugin_args is no table of names and values"),
        ("plugin: Slurm", "nipype has no plugin Slurm; it has Condor"),
        ("plugin: SGEGraph", "does not wait for them"),
    ],
)
def test_plugin_file_that_is_none(plugin_file, text, sentence):
    with pytest.raises(UsageError, match=sentence) as error:
        plugin_of("--use-plugin", plugin_file(text))
    assert "plugin.yml" in str(error.value)


def test_plugin_file_that_is_not_there(tmp_path):
    """The app says so before it writes anything."""
    write_derivative(tmp_path / "in", "sub-1_task-a")
    call = (tmp_path / "in", tmp_path / "out", "participant", "--random-weights")
    done = run_app(*call, "--use-plugin", tmp_path / "none.yml")
    assert done.returncode == 2
    assert f"--use-plugin {tmp_path / 'none.yml'}: cannot be read" in done.stderr
    assert not (tmp_path / "out" / "dataset_description.json").exists()


def test_folders_that_slurm_cannot_have(tmp_path):
    with pytest.raises(UsageError, match="spaces"):
        plugin_of("--slurm", output=tmp_path / "my data")


class _Input(BaseInterfaceInputSpec):
    use_gpu = traits.Bool()


class _Step(SimpleInterface):
    input_spec, output_spec = _Input, TraitedSpec


@pytest.mark.parametrize(
    ("flags", "gpu", "expected"),
    [
        (["--slurm"], False, "--mem=3G --cpus-per-task=4"),
        (["--slurm"], True, "--mem=3G --cpus-per-task=4 --gres=gpu:1"),
        (["--slurm", "--sbatch-args=--gpus=2 --mem=9G"], True, "--cpus-per-task=4"),
        (["--slurm-graph"], False, "--mem=3G --cpus-per-task=4 --kill-on-invalid-dep=yes"),
    ],
)
def test_what_a_job_asks_for(tmp_path, flags, gpu, expected):
    node = Node(_Step(use_gpu=gpu), name="step", mem_gb=1.2, n_procs=4)
    ask_slurm(node, plugin_of(*flags), MARK, tmp_path)
    log = tmp_path / "slurm-%j.log"
    beginning = f" --comment={MARK} --output={log} --error={log} "
    assert node.plugin_args == {"sbatch_args": beginning + expected}


def test_other_plugins_get_no_options_of_slurm(tmp_path, plugin_file):
    node = Node(_Step(), name="step")
    ask_slurm(node, plugin_of("--use-plugin", plugin_file("plugin: SGE")), MARK, tmp_path)
    assert node.plugin_args == {}


def test_logs_without_a_word_go(tmp_path):
    (tmp_path / "slurm-1.log").touch()
    (tmp_path / "slurm-2.log").write_text("word")
    remove_empty_logs([tmp_path])
    assert [file.name for file in tmp_path.iterdir()] == ["slurm-2.log"]


@pytest.mark.parametrize("plugin", ["Linear", "MultiProc"])
def test_local_plugins_do_the_same(tmp_path, reference_bundle, plugin_file, plugin):
    for label in "12":
        write_derivative(tmp_path / "in", f"sub-{label}_task-a")
    call = (tmp_path / "in", tmp_path / "out", "participant", "--weights", reference_bundle)
    done = run_app(*call, "--use-plugin", plugin_file(f"plugin: {plugin}"), "--nprocs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").rglob("*_embedding.tsv"))) == 2
