"""The image on the strictest host, compared with a plain installation of the same versions."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from containers import IMAGE, call, engine_with_image, run_files, run_image

from swift_bids import __version__

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def engine():
    return engine_with_image()


@pytest.fixture(scope="module")
def outputs(engine, demo, installation):
    """Outputs of both levels for the demo data: `plain` from the installation, `boxed` from the
    image, and the work folder of the image, `boxed_work`."""
    demo.chmod(0o755)
    weights = ("--weights", demo / "weights", "--random-weights")
    calls = {"participant": weights, "group": ()}
    for level, options in calls.items():
        done = call(
            *(installation / "swift-bids", demo / "fmriprep", demo / "plain", level, *options),
            env={"PATH": "/usr/bin:/bin"},  # BLAS settings change the last digits
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for name in ("boxed", "boxed_work"):
        (demo / name).mkdir()
        (demo / name).chmod(0o777)
    mounts = [(demo / name, "ro") for name in ("fmriprep", "weights")]
    mounts += [(demo / name, "rw") for name in ("boxed", "boxed_work")]
    before = {path: path.stat() for path in (demo / "fmriprep").rglob("*")}
    for level, options in calls.items():
        work = ("-w", demo / "boxed_work", "--clean-workdir") if level == "participant" else ()
        done = run_image(
            engine, demo / "fmriprep", demo / "boxed", level, *options, *work, mounts=mounts
        )
        assert done.returncode == 0, done.stdout + done.stderr
    after = {path: path.stat() for path in (demo / "fmriprep").rglob("*")}
    times = [{p: (s.st_mtime_ns, s.st_size) for p, s in x.items()} for x in (before, after)]
    assert times[0] == times[1], "the app has written to its input"
    return demo


def test_same_bytes_as_a_plain_installation(outputs):
    plain, boxed = run_files(outputs / "plain"), run_files(outputs / "boxed")
    assert {"group.html", "sub-01.html", "group_desc-swift_embedding.tsv"} <= plain.keys()
    made_by = json.loads(boxed["dataset_description.json"])["GeneratedBy"][0]
    assert made_by.pop("Container") == {"Type": "docker", "Tag": f"swift_bids:{__version__}"}
    described = json.loads(plain.pop("dataset_description.json"))
    assert (
        json.loads(boxed.pop("dataset_description.json")) | {"GeneratedBy": [made_by]} == described
    )
    assert plain.keys() == boxed.keys()
    assert [name for name in plain if plain[name] != boxed[name]] == []


def test_outputs_belong_to_the_user(outputs):
    owners = {path.stat().st_uid for path in (outputs / "boxed").rglob("*")}
    assert owners == {4242}
    logs = list((outputs / "boxed").glob("sub-01/log/*/swift_bids.toml"))
    assert len(logs) == 1


def test_work_folder_is_cleaned(outputs):
    assert list((outputs / "boxed_work").rglob("matrix.npy")) == []


def test_container_without_a_gpu(engine):
    done = run_image(engine, "/data", "/out", "participant", "--device", "cuda")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "swift-bids: error: --device cuda: this container sees no GPU; start it with 'docker run "
        "--gpus all ...' or 'apptainer run --nv ...', or leave --device out\n"
    )


def test_without_a_writable_folder(engine, demo):
    data = demo / "fmriprep"
    done = run_image(engine, data, "/out", "group", mounts=[(data, "ro")])
    assert done.returncode == 2
    assert "error: output_dir /out: / cannot be written to" in done.stderr


@pytest.mark.parametrize(
    ("memory", "length"),
    [
        ("250m", 0),  # too little to start
        ("400m", 0),
        ("400m", 100),  # too long for the server's socket: workers are spawned, not forked
    ],
)
def test_too_little_memory_is_reported(engine, demo, memory, length):
    with tempfile.TemporaryDirectory(suffix="x" * length) as folder:
        Path(folder).chmod(0o777)
        weights = demo / "weights"
        mounts = [(demo / "fmriprep", "ro"), (weights, "ro"), (folder, "rw")]
        arguments = (demo / "fmriprep", folder, "participant", "--weights", weights)
        arguments += ("--random-weights", "--participant-label", "01")
        limit = ("--memory", memory, "--memory-swap", memory)
        done = run_image(engine, *arguments, mounts=mounts, options=limit)
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "was killed" in done.stdout + done.stderr
    assert "memory ran out" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_image_labels(engine):
    """The label, the `version` file and the app have the same version."""
    (described,) = json.loads(call(engine, "image", "inspect", IMAGE).stdout)
    labels = described.get("Labels") or described["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.swift-bids.weights"] == labels["org.swift-bids.weights.sha256"] == ""
    assert described["Config"]["User"] == "swift"
    assert described["Size"] < 2e9
    done = run_image(engine, "--version")
    assert done.stdout == f"swift_bids {__version__}\n"
