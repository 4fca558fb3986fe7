"""Commands that cannot run, and machines that lack something: the app says so in one sentence and
leaves nothing unfinished."""

import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from app import PATIENCE, ROOT, files_in, missing, run_app, run_process, start_process, wait_for
from containers import run_files
from make_data import file_of, write_bundle, write_run

from swift_bids.base.errors import PlainFormatter
from swift_bids.execution.resume import input_fingerprint
from swift_bids.execution.workers import share_import_path

NO_ROOM = (
    r"cannot be read or written \(No space left on device\); free some space and run the same "
    r"command again"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_bundle):
    """`in`, three runs, and `plain`: their outputs on a machine that lacks nothing."""
    folder = tmp_path_factory.mktemp("surroundings")
    for label in "123":
        write_run(folder / "in", label)
    done = run_app(*call(folder / "in", folder / "plain", small_bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def call(bids_dir, output_dir, bundle, *options):
    return (bids_dir, output_dir, "participant", "--weights", bundle, *options)


def run_behind(prefix, *arguments):
    """Run the app behind another program, which takes something away from it."""
    workers = [] if "--nprocs" in arguments else ["--nprocs", "2"]
    command = [*prefix, sys.executable, str(ROOT / "run.py"), *map(str, arguments), *workers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def with_mount(place, options, then=":"):
    """A prefix that mounts a disk of its own at `place` for the app, and runs `then` afterwards."""
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"]).returncode:
        missing("this user may mount nothing, not even in a namespace")
    mount = f"mount -t tmpfs -o {options} tmpfs {shlex.quote(str(place))}"
    return [*namespace, "sh", "-c", f'{mount} && "$@"; code=$?; {then}; exit $code', "sh"]


def as_its_permissions_say():
    """A prefix under which permissions hold for root, too."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        missing("setpriv is not installed")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def parts_in(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]


def test_a_disk_that_fills_up(folder, small_bundle):
    """Finished runs stay, the others say why they failed, and a later call embeds only those."""
    output, kept = folder / "full", folder / "kept"
    output.mkdir()
    # two participants and half of a third; a file takes whole pages of 4 kB
    sizes = [
        -(-file.stat().st_size // 4096) * (2 if file.is_relative_to(folder / "plain/sub-3") else 4)
        for file in (folder / "plain").rglob("*")
        if file.is_file() and file.suffix != ".html"
    ]
    small = with_mount(output, f"size={sum(sizes)}k", f"cp -a {shlex.quote(f'{output}/.')} {kept}")
    arguments = call(folder / "in", output, small_bundle, "-w", folder / "work")
    kept.mkdir()
    full = run_behind(small, *arguments)
    assert full.returncode == 1
    recap = full.stdout[full.stdout.index("\ndone: ") :]
    assert recap.startswith("\ndone: 2 run(s)\nfailed: ")
    assert len([line for line in recap.splitlines() if line.startswith("  sub-")]) >= 1
    assert re.search(rf"^  sub-\d_task-a_.*: /.*{NO_ROOM}", recap, re.MULTILINE)
    assert parts_in(kept) == []
    expected, there = run_files(folder / "plain"), run_files(kept)
    of_runs = {name for name in there if "/func/" in name}
    assert len(of_runs) >= 18
    assert {name for name in of_runs if there[name] != expected[name]} == set()
    again = run_app(*call(folder / "in", kept, small_bundle))
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.endswith("done: 1 run(s), skipped: 2 run(s) already done\n")
    assert run_files(kept) == expected


@pytest.mark.parametrize("processes", [pytest.param("1", marks=pytest.mark.long), "2"])
@pytest.mark.parametrize(
    ("size", "on", "sentence"),
    [
        ("8k", "output", rf"/output/.*: {NO_ROOM}"),
        ("300k", "work", "/.*/work has no space left: free some and run the same command again"),
    ],
)
def test_a_full_disk(folder, small_bundle, tmp_path, size, on, sentence, processes):
    (tmp_path / on).mkdir()
    options = ("-w", tmp_path / "work", "--nprocs", processes, "--participant-label", "1")
    arguments = call(folder / "in", tmp_path / "output", small_bundle, *options)
    full = run_behind(with_mount(tmp_path / on, f"size={size}"), *arguments)
    assert full.returncode == 1
    assert re.search(rf"^  sub-1_task-a_space-MNI152NLin6Asym: .*{sentence}", full.stdout, re.M)
    assert parts_in(tmp_path) == []


def test_a_full_disk_at_the_group_level(folder, tmp_path):
    place = tmp_path / "full"
    place.mkdir()
    shutil.copytree(folder / "plain", tmp_path / "copy")
    fill = f"cp -a {tmp_path}/copy/. {place}; head -c 9m /dev/zero 2>/dev/null >{place}/rest"
    filled = ["sh", "-c", f'{fill}; exec "$@"', "sh"]
    full = run_behind([*with_mount(place, "size=5m"), *filled], folder / "in", place, "group")
    assert full.returncode == 1
    assert re.search(rf"^swift-bids: error: {place}/.*{NO_ROOM}", full.stderr)


@pytest.mark.parametrize("what", ["output", "work"])
def test_a_read_only_folder(folder, small_bundle, tmp_path, what):
    output = tmp_path / "out" if what == "output" else tmp_path.parent / "not_made"
    arguments = call(folder / "in", output, small_bundle, "-w", tmp_path / "work")
    done = run_behind(with_mount(tmp_path, "ro"), *arguments)
    assert done.returncode == 2
    assert re.search(
        rf"you cannot write to {tmp_path}|{tmp_path} cannot be written to", done.stderr
    )


def test_files_and_folders_without_permission(folder, small_bundle, tmp_path):
    """A folder that cannot be listed used to stop all participants."""
    files = {}
    for label, kind in (("1", "bold"), ("2", "mask"), ("3", "confounds"), ("4", "sidecar")):
        files[label] = file_of(write_run(tmp_path / "in", label), kind)
        files[label].chmod(0)
    for label, closed in (("5", "sub-5"), ("6", "sub-6/func"), ("7", "")):
        write_run(tmp_path / "in", label)
        if closed:
            (tmp_path / "in" / closed).chmod(0)
    arguments = call(tmp_path / "in", tmp_path / "out", small_bundle)
    done = run_behind(as_its_permissions_say(), *arguments)
    (tmp_path / "in" / "sub-5").chmod(0o700)
    (tmp_path / "in" / "sub-6" / "func").chmod(0o700)
    assert done.returncode == 1
    assert "\ndone: 1 run(s)\nfailed: 6 " in done.stdout
    for file in files.values():
        said = f"{file}: cannot be read (Permission denied); check its permissions and links\n"
        assert said in done.stdout
    for label in "56":
        folder = tmp_path / "in" / f"sub-{label}"
        said = f"  sub-{label}: {folder}, or a folder in it, cannot be read; check its permissions"
        assert said in done.stdout


def test_an_output_folder_without_permission(folder, small_bundle, tmp_path):
    (tmp_path / "closed").mkdir(0)
    arguments = call(folder / "in", tmp_path / "closed" / "out", small_bundle)
    done = run_behind(as_its_permissions_say(), *arguments)
    assert done.returncode == 2
    assert "cannot be read (Permission denied); choose a folder that you" in done.stderr


def cut(folder, state, config):
    file = write_bundle(folder, state, config) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-999])


def of_another_shape(folder, state, config):
    name = next(name for name in state if state[name].ndim > 1)
    write_bundle(folder, state | {name: state[name][:, :-1].contiguous()}, config)


def with_nan(folder, state, config):
    name = next(iter(state))
    spoiled = state[name].clone()
    spoiled.view(-1)[0] = float("nan")
    write_bundle(folder, state | {name: spoiled}, config)


WEIGHTS = {
    "cut": (cut, "model.safetensors: is damaged or neither a safetensors file"),
    "shape": (of_another_shape, r"model.safetensors: .*\(\d+, \d+.*\).*\(\d+, \d+.*\)"),
    "nan": (with_nan, "model.safetensors: .*NaN or infinite values in "),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_unusable_weights(folder, tmp_path, reference_state, recipe, kind):
    damage, sentence = WEIGHTS[kind]
    damage(tmp_path / "weights", reference_state("full"), recipe.load_case("full")[0])
    done = run_app(*call(folder / "in", tmp_path / "out", tmp_path / "weights"))
    assert done.returncode == 2
    assert re.search(sentence, done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


CALLS = {  # name -> (options, the sentence)
    "unknownkeys": (["--config-file", "unknown.toml"], "unknown.toml: there is no flag --colour"),
    "configpath": (["--config-file", "path.toml"], "1/../../else is a path, not a participant's"),
    "nogpu": (["--device", "cuda"], "no CUDA|GPU"),
    "emptyslice": (["--batch", "4/4"], "nothing to do: no participant is left in batch 4/4"),
    "noweights": (["--weights", "nowhere"], "nowhere: no such file or folder"),
    "fewmegabytes": (["--mem", "8"], "8 is 0.008 GB, which is too little; .* write .* 8G"),
    "hugenumber": (["--nprocs", "9" * 20], "is not a whole number from 1 to 999999999"),
    "hugedummies": (["--dummy-scans", "1" * 5000], "is neither auto nor a number of volumes"),
    "deepconfig": (["--config-file", "deep.toml"], "deep.toml: is not a settings file"),
    "textflag": (["--config-file", "flag.toml"], "stop_on_first_crash must be true or false"),
    "nullconfig": (["--config-file", "null.toml"], "null.toml: work_dir contains a null character"),
    "hugefilter": (["--bids-filter-file", "huge.json"], "--bids-filter-file: bold: "),
    "workinaloop": (["-w", "loop/work"], "--work-dir loop/work: cannot be resolved"),
    "workinaloopofjobs": (["--slurm", "-w", "loop/work"], "loop/work: cannot be resolved"),
    "workinafileofjobs": (["--slurm", "-w", "deep.toml"], "deep.toml is a file, not a folder"),
    "plugingpus": (["--use-plugin", "gpu.yml"], "n_gpu_procs is 'two', not a whole number of"),
    "pluginprocesses": (["--use-plugin", "plugin.yml"], "n_procs is '2', not a whole number of"),
    "pathaslabel": (["--participant-label", "../else"], "../else is a path, not a participant's"),
}


@pytest.mark.parametrize("kind", CALLS)
def test_wrong_commands_write_nothing_and_say_why(folder, tmp_path, small_bundle, kind):
    options, sentence = CALLS[kind]
    (tmp_path / "unknown.toml").write_text('[arguments]\ncolour = "red"\n')
    (tmp_path / "path.toml").write_text('[arguments]\nparticipant_label = ["1/../../else"]\n')
    (tmp_path / "deep.toml").write_text("x=" + "[" * 100_000)
    (tmp_path / "flag.toml").write_text('[arguments]\nstop_on_first_crash = "false"\n')
    (tmp_path / "null.toml").write_text('[arguments]\nwork_dir = "a\\u0000b"\n')
    (tmp_path / "huge.json").write_text('{"bold": {"run": 99999999999999999999999}}')
    (tmp_path / "plugin.yml").write_text("plugin: MultiProc\nplugin_args: {n_procs: '2'}\n")
    (tmp_path / "gpu.yml").write_text("plugin: MultiProc\nplugin_args: {n_gpu_procs: two}\n")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "else").mkdir()
    (tmp_path / "out" / "sub-1").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    arguments = call(folder / "in", "out", small_bundle, *options)
    environment = {"CUDA_VISIBLE_DEVICES": ""} if kind == "nogpu" else {}
    done = run_app(*arguments, cwd=tmp_path, **environment)
    assert done.returncode == 2
    assert re.search(sentence, done.stderr), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_filters_do_not_become_paths(folder, tmp_path, small_bundle):
    """Values of a filter file are compared with the files, and never used as paths."""
    filters = tmp_path / "filters.json"
    filters.write_text('{"bold": {"task": "../../else", "subject": "../1"}}')
    arguments = call(folder / "in", tmp_path / "out", small_bundle)
    done = run_app(*arguments, "--bids-filter-file", filters)
    assert done.returncode == 2  # nobody has such a run
    assert "that match --bids-filter-file" in done.stdout
    assert list(tmp_path.iterdir()) == [filters]


def test_workers_do_not_import_from_the_current_folder(folder, small_bundle, tmp_path):
    """Worker processes do not import modules that lie in the current folder."""
    (tmp_path / "swift_bids").mkdir()
    for name in ("numpy.py", "multiprocessing.py", "swift_bids/__init__.py"):
        (tmp_path / name).write_text('open("imported", "w")\n')
    arguments = call(folder / "in", tmp_path / "out", small_bundle)
    done = run_process(*arguments, "--nprocs", "2", cwd=tmp_path)
    assert done.stdout.endswith("done: 3 run(s)\n")
    assert done.stderr == ""
    assert not (tmp_path / "imported").exists()


def test_workers_import_the_checkout_of_run_py(folder, small_bundle, tmp_path):
    """The server of workers used to import the installed package instead."""
    for name in ("swift_bids", "run.py", "version"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    with open(tmp_path / "swift_bids" / "execution" / "worker_server.py", "a") as file:
        file.write(f'open({str(tmp_path / "imported")!r}, "w").write(interfaces.__file__)\n')
    arguments = call(folder / "in", tmp_path / "out", small_bundle, "--nprocs", 2)
    done = subprocess.run(
        [*map(str, (sys.executable, tmp_path / "run.py", *arguments))],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.stdout.endswith("done: 3 run(s)\n")
    assert (tmp_path / "imported").read_text() == str(
        tmp_path / "swift_bids" / "interfaces" / "__init__.py"
    )


def test_import_path_of_new_processes(monkeypatch):
    """Cluster jobs, too, import the package beside run.py."""
    monkeypatch.setenv("PYTHONPATH", "/else")
    for called, expected in ((ROOT / "run.py", f"{ROOT}:/else"), ("/bin/swift-bids", "/else")):
        monkeypatch.setattr(sys, "argv", [str(called)])
        monkeypatch.setenv("PYTHONPATH", "/else")
        monkeypatch.setenv("PYTHONSAFEPATH", "")
        share_import_path()
        assert (os.environ["PYTHONPATH"], os.environ["PYTHONSAFEPATH"]) == (expected, "1")


def test_lone_surrogates_and_ascii_terminals(small_bundle, tmp_path):
    """The summary is printed although the terminal cannot show every character."""
    write_run(tmp_path / "in", "1")
    (tmp_path / "in" / "participants.tsv").write_text("participant_id\tsite\nsub-1\tx\n")
    (tmp_path / "in" / "participants.json").write_text('{"site": {"Description": "\\ud83d"}}')
    output = tmp_path / "äöü"
    arguments = call(tmp_path / "in", output, small_bundle)
    done = run_app(*arguments, "--participant-label", "1", "f\udcfc", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "\ndone: 1 run(s)\nfailed: 1 " in done.stdout
    assert f"report: {tmp_path}/\\xe4\\xf6\\xfc/sub-1.html" in done.stdout
    assert r"sub-f\udcfc: " in done.stdout
    about = json.loads((output / "participants.json").read_text())
    assert about["site"]["Description"] == "\ud83d"


def test_a_message_is_one_line(caplog):
    """A file name with line breaks could otherwise fake lines of the log."""
    record = logging.LogRecord("x", 20, "", 1, "%s: done", ("a\ndone: 9 run(s)\x1b[1m\r",), None)
    assert PlainFormatter("%(message)s").format(record) == r"a\ndone: 9 run(s)\x1b[1m\r: done"
    try:
        raise ValueError("two\nlines\x1b")
    except ValueError:
        record.exc_info = sys.exc_info()
    told = PlainFormatter("%(message)s").format(record).splitlines()
    assert told[-2:] == ["ValueError: two", r"lines\x1b"]


def test_names_that_are_not_utf8(folder, small_bundle, tmp_path):
    """A single such file used to stop all participants."""
    write_run(tmp_path / "in", "1")
    for name in (b"sub-1/func/notes_f\xfcr.txt", b"sub-2\xfe/func/sub-2_task-a.txt"):
        path = os.path.join(os.fsencode(tmp_path / "in"), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    done = run_app(*call(tmp_path / "in", tmp_path / "out", small_bundle))
    assert done.returncode == 1
    assert "done: 1 run(s)\nfailed: 1 " in done.stdout
    assert r"sub-2\udcfe: has no preprocessed BOLD" in done.stdout


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_names_that_nipype_cannot_tell_apart(small_bundle, tmp_path, processes):
    """In nipype's names `+`, `=`, `-` and `_` are the same."""
    place = tmp_path / "in" / "sub-1" / "func"
    place.mkdir(parents=True)
    for task in ("a+b", "a=b", "a_acq-b", "a-acq-b"):
        for file in write_run(tmp_path / "made", "1").parent.iterdir():
            file.rename(place / file.name.replace("task-a", f"task-{task}"))
    arguments = call(tmp_path / "in", tmp_path / "out", small_bundle, "--nprocs", processes)
    done = run_app(*arguments)
    assert done.stdout.endswith("done: 4 run(s)\n")
    assert len(list((tmp_path / "out").rglob("*_embedding.tsv"))) == 4


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_a_run_that_disappears_during_the_call(small_bundle, tmp_path, processes):
    for label in "123":
        write_run(tmp_path / "in", label)
    command = [sys.executable, ROOT / "run.py"]
    command += [*call(tmp_path / "in", tmp_path / "out", small_bundle), "--nprocs", processes]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        for line in job.stdout:
            if "run(s) on cpu" in line:
                shutil.rmtree(tmp_path / "in" / "sub-3")
                break
        said = job.stdout.read()
    assert job.returncode == 1, said
    assert "Traceback" not in said
    recap = said[said.index("done: 2 run(s)\n") :].splitlines()
    assert len(recap) == 3
    assert recap[2].startswith("  sub-3_task-a_space-MNI152NLin6Asym: ")


def test_a_run_that_disappears_while_runs_are_compared_with_earlier_outputs(
    small_bundle, tmp_path, monkeypatch
):
    for label in "12":
        write_run(tmp_path / "in", label)

    def remove_first(run, provenance):
        if run.participant == "2":
            shutil.rmtree(tmp_path / "in" / "sub-2")
        return input_fingerprint(run, provenance)

    monkeypatch.setattr("swift_bids.execution.embed_runs.input_fingerprint", remove_first)
    done = run_app(*call(tmp_path / "in", tmp_path / "out", small_bundle))
    assert done.returncode == 1
    assert "done: 1 run(s)\n" in done.stdout
    reason = "cannot be read (No such file or directory); check the file and its disk"
    assert f"  sub-2_task-a_space-MNI152NLin6Asym: {tmp_path}/in/sub-2/func/" in done.stdout
    assert reason in done.stdout


def test_a_closed_output_pipe_is_not_an_error(folder, small_bundle, tmp_path):
    """With `| head -1` the app does its work and prints no error."""
    arguments = call(folder / "in", tmp_path, small_bundle, "--participant-label", "1")
    command = shlex.join(map(str, [sys.executable, ROOT / "run.py", *arguments]))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.rglob("*_embedding.json"))) == 1


def damaged(name, content):
    def damage(output):
        (file,) = output.glob(name)
        file.write_text(content)

    return damage


OWN = {
    "embedding": damaged("sub-1/func/*swift_embedding.json", "[]"),
    "qc": damaged("sub-1/func/*_qc.json", "{}"),
    "status": damaged("logs/status.tsv", "participant_id\tname\tstatus\nn/a\tn/a\tn/a\n"),
}


@pytest.mark.parametrize("what", OWN)
def test_damaged_outputs(folder, small_bundle, tmp_path, what):
    """They are made again, without a traceback."""
    output = tmp_path / "out"
    shutil.copytree(folder / "plain", output)
    OWN[what](output)
    (output / "sub-1.html").unlink()
    arguments = call(folder / "in", output, small_bundle, "--participant-label", "1")
    done = run_app(*arguments)
    assert done.stderr == ""
    assert done.returncode == 0
    assert "skipped: 1 run(s)" in done.stdout or "done: 1 run(s)" in done.stdout


@pytest.mark.parametrize("inside", ["sub-1", "sub-1/func/new", "."])
def test_output_in_the_input(folder, small_bundle, inside):
    done = run_app(*call(folder / "in", folder / "in" / inside, small_bundle))
    assert done.returncode == 2
    assert re.search("output_dir /.* (lies in the input's data|is the input folder)", done.stderr)


#: What there is to see when a call is interrupted: a line of its log, or a file.
MOMENTS = {
    "start": "swift_bids ",
    "weights": "weights: ",
    "run": "embedding 3 run(s)",
    "matrix": "matrix.npy",
    "tokens": "tokens.npy",
    "embedding": "*_embedding.json",
}


@pytest.mark.parametrize(
    ("moment", "processes"),
    [
        *((moment, 2) for moment in MOMENTS),
        ("embedding", 1),
        *(pytest.param(m, 1, marks=pytest.mark.long) for m in MOMENTS if m != "embedding"),
    ],
)
def test_ctrl_c_at_any_moment(folder, small_bundle, tmp_path, processes, moment):
    """While it imports, searches, reads, computes and writes."""
    sign, log = MOMENTS[moment], tmp_path / "log"
    arguments = call(folder / "in", tmp_path / "out", small_bundle, "--force")
    with open(log, "w") as out, open(tmp_path / "errors", "w") as errors:
        job = start_process(
            *arguments,
            *("--nprocs", processes),
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )

    def seen():
        return files_in(tmp_path / "out", sign) or sign in log.read_text() or job.poll() is not None

    wait_for(seen)
    os.killpg(job.pid, signal.SIGINT)
    job.wait(timeout=PATIENCE)
    said, errors = log.read_text(), (tmp_path / "errors").read_text()
    assert "Traceback" not in said + errors
    assert not (tmp_path / "out" / ".swift_bids_work").exists()
    if job.returncode == 0:  # it was quicker than the signal
        return
    assert (job.returncode, errors) == (130, "swift-bids: interrupted\n")
    if "embedding 3 run(s)" in said and "[3/3]" not in said:
        last = said[said.index("failed: ") :].splitlines()[1:]
        assert last
        assert {line.split(": ", 1)[1] for line in last} == {
            "not processed: the call was interrupted or terminated"
        }
    assert parts_in(tmp_path) == []
