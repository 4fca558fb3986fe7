"""All layouts of weights, and their possible errors."""

import argparse
import errno
import hashlib
import http.server
import json
import os
import pickle
import re
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from app import require_program, run_app
from make_data import write_bundle, write_derivative
from safetensors.torch import load_file, save_file

from swift_bids import SwiFT
from swift_bids.base.errors import OutputError, UsageError
from swift_bids.cli.main import main
from swift_bids.network.bundles import write_bundle as write_whole_bundle
from swift_bids.network.bundles import write_random_bundle
from swift_bids.network.checkpoint import read_backbone
from swift_bids.network.known_weights import REGISTRY, known_files
from swift_bids.network.load import class_with
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.weights import find_weights

#: The revision of the bundle hcp-sex that the app fetches.
PINNED = REGISTRY["ilex-hub/swift.hcp-sex.1"]["revision"]


@pytest.fixture
def tiny(recipe, reference_state):
    """(constructor arguments, state dict) of a small network."""
    return recipe.load_case("tiny")[0], reference_state("tiny")


def same(network: SwiFT, state: dict) -> bool:
    return all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_folder_and_its_file_are_the_same_weights(tmp_path, tiny):
    config, state = tiny
    folder = write_bundle(tmp_path / "bundle", state, config)
    by_folder = find_weights(str(folder), "contrastive")
    assert by_folder == find_weights(str(folder / "model.safetensors"), "contrastive")
    assert by_folder.name == "bundle/model.safetensors"
    content = (folder / "model.safetensors").read_bytes()
    assert by_folder.sha256 == hashlib.sha256(content).hexdigest()
    assert not by_folder.random
    network = SwiFT.from_file(by_folder.file)
    assert same(network, state)
    assert not network.training


def test_a_file_is_read_without_drawing_random_numbers(tmp_path, tiny, monkeypatch):
    config, state = tiny
    folder = write_bundle(tmp_path / "bundle", state, config)
    drawn = []
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: drawn.append(tensor))
    backbone = read_backbone(folder / "model.safetensors", class_with)
    assert drawn == []
    assert backbone.state.keys() == state.keys()
    SwiFT(**config)
    assert len(drawn) == 2 * len(config["depths"])


def test_jax_names_are_converted(tmp_path, tiny):
    config, state = tiny
    renamed = {}
    for name, tensor in state.items():
        parts = name.split(".")
        brackets = "".join(f"[{p}]" if p.isdigit() else f".{p}" for p in parts)[1:]
        if parts[-1] == "weight" and tensor.ndim == 2:
            brackets, tensor = brackets.removesuffix("weight") + "kernel", tensor.T.contiguous()
        elif parts[-1] == "weight":
            brackets = brackets.removesuffix("weight") + "scale"
        renamed["model.backbone." + brackets] = tensor
    assert "model.backbone.layers[0].blocks[1].attn.qkv.kernel" in renamed
    folder = write_bundle(tmp_path, renamed, config)
    assert same(SwiFT.from_file(folder / "model.safetensors"), state)


def test_relative_and_linked_files_are_found_from_any_folder(tmp_path, monkeypatch, tiny):
    """Each node runs in its own folder; in a DataLad dataset the file is a link into the annex."""
    config, state = tiny
    folder = write_bundle(tmp_path / "study" / "weights", state, config)
    (folder / "model.safetensors").rename(tmp_path / "annexed")
    (folder / "model.safetensors").symlink_to(tmp_path / "annexed")
    monkeypatch.chdir(tmp_path / "study")
    weights = find_weights("weights", "contrastive")
    monkeypatch.chdir("/")
    assert weights.name == "weights/model.safetensors"
    assert same(SwiFT.from_file(weights.file), state)


def test_an_original_lightning_checkpoint_is_read(tmp_path, tiny):
    config, state = tiny
    content = {
        "state_dict": {f"model.{k}": v for k, v in state.items()}
        | {"output_head.hidden.weight": torch.zeros(3, 3)},
        "hyper_parameters": argparse.Namespace(**config, learning_rate=1e-3),
    }
    torch.save(content, tmp_path / "contrastive_pretrained.ckpt")
    weights = find_weights(str(tmp_path / "contrastive_pretrained.ckpt"), "contrastive")
    assert same(SwiFT.from_file(weights.file), state)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "broken_in"),)

    torch.save({"state_dict": Malicious()}, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="cannot be read as a checkpoint"):
        find_weights(str(tmp_path / "a.ckpt"), "contrastive")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(UsageError, match="cannot be read as a checkpoint"):
        find_weights(str(tmp_path / "b.ckpt"), "contrastive")
    assert not (tmp_path / "broken_in").exists()


def fill_hub_cache(folder, monkeypatch, config, state):
    """Make a Hub cache that contains a bundle at the pinned revision, and use it."""
    repo = folder / "models--ilex-hub--swift.hcp-sex.1"
    write_bundle(repo / "snapshots" / PINNED, state, config)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(PINNED)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))


def test_the_hub_cache_works_offline(tmp_path, monkeypatch, tiny):
    """A bundle in the Hub's cache needs no network."""
    fill_hub_cache(tmp_path, monkeypatch, *tiny)
    weights = find_weights(None, "hcp-sex")
    assert weights.name == "ilex-hub/swift.hcp-sex.1"
    assert same(SwiFT.from_file(weights.file), tiny[1])


def test_the_error_for_missing_weights_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"swift.contrastive.1 .* give with --weights"):
        find_weights(None, "contrastive")


def test_weights_in_a_container_image_are_used(tmp_path, monkeypatch, tiny):
    """Each variant uses its own bundle in the folder; --weights has priority."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # spares the retries
    monkeypatch.setenv("SWIFT_BIDS_WEIGHTS", str(tmp_path))
    config, state = tiny
    write_bundle(tmp_path / "swift.hcp-sex.1", state, config)
    found = find_weights(None, "hcp-sex")
    assert found.file == str(tmp_path / "swift.hcp-sex.1" / "model.safetensors")
    with pytest.raises(UsageError, match=r"ilex-hub/swift\.contrastive\.1"):
        find_weights(None, "contrastive")
    other = write_bundle(tmp_path / "other", state, config)
    assert find_weights(str(other), "hcp-sex").name == "other/model.safetensors"


def test_random_weights_need_their_flag(tmp_path, tiny):
    made = find_weights(str(write_random_bundle(tmp_path)), "contrastive", random=True)
    assert made.random
    network = SwiFT.from_file(made.file)
    assert network.img_size == RELEASED_CONFIG["img_size"]
    again = write_random_bundle(tmp_path / "again")
    assert same(SwiFT.from_file(again / "model.safetensors"), network.state_dict())
    with pytest.raises(UsageError, match="accept them with --random-weights"):
        find_weights(str(again), "contrastive")
    config, state = tiny
    real = write_bundle(tmp_path / "real", state, config)
    with pytest.raises(UsageError, match="does not contain random weights"):
        find_weights(str(real), "contrastive", random=True)


def _drop(state, config):
    del state["layers.1.blocks.0.attn.qkv.bias"]


def _add(state, config):
    state["layers.0.blocks.0.attn.relative_position"] = torch.zeros(2)


def _reshape(state, config):
    state["patch_embed.fc.bias"] = torch.zeros(7)


def _add_nan(state, config):
    state["norm.weight"][0] = float("nan")


def _drop_setting(state, config):
    del config["window_size"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop, r"missing: layers\.1\.blocks\.0\.attn\.qkv\.bias"),
        (_add, r"unexpected: layers\.0\.blocks\.0\.attn\.relative_position"),
        (_reshape, r"wrong shape: patch_embed\.fc\.bias \(7,\) instead of \(12,\)"),
        (_add_nan, r"NaN or infinite values in norm\.weight"),
        (_drop_setting, r"settings lack window_size"),
    ],
)
def test_the_error_names_wrong_tensors_and_settings(tmp_path, tiny, damage, message):
    config, state = dict(tiny[0]), {k: v.clone() for k, v in tiny[1].items()}
    damage(state, config)
    folder = write_bundle(tmp_path, state, config)
    with pytest.raises(UsageError, match=message):
        SwiFT.from_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": 5},
        {"state_dict": {1: torch.zeros(2)}},
        {"state_dict": {"patch_embed.fc.weight": "text"}},
        {"state_dict": {}, "hyper_parameters": 5},
    ],
)
def test_checkpoints_with_other_content_are_refused(tmp_path, tiny, content):
    torch.save({"hyper_parameters": tiny[0]} | content, tmp_path / "odd.ckpt")
    with pytest.raises(
        UsageError, match=r"odd\.ckpt: (contains no named tensors|contains 5 instead)"
    ):
        SwiFT.from_file(tmp_path / "odd.ckpt")


def test_a_full_disk_leaves_no_partial_bundle(tmp_path, tiny, monkeypatch):
    """A full disk used to leave a partial file, which the next call refused to overwrite."""
    write = Path.write_bytes

    def full(path, data):
        write(path, data[:100])
        if "safetensors" in path.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match=r"model\.safetensors: .*free some space"):
        write_whole_bundle(tmp_path, *tiny)
    assert not list(tmp_path.glob("*model.safetensors*"))


def test_a_missing_final_norm_is_accepted(tmp_path, tiny):
    config, state = tiny
    backbone = {k: v for k, v in state.items() if not k.startswith("norm.")}
    folder = write_bundle(tmp_path, backbone, config)
    assert same(SwiFT.from_file(folder / "model.safetensors"), backbone)


def test_damaged_and_missing_files_are_refused(tmp_path, tiny):
    config, state = tiny
    folder = write_bundle(tmp_path / "a", state, config)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match="damaged"):
        SwiFT.from_file(file)
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match="constructor_kwargs"):
        find_weights(str(folder), "contrastive")
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match=r"no config\.json beside it"):
        find_weights(str(folder), "contrastive")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no model\.safetensors"):
        find_weights(str(tmp_path / "empty"), "contrastive")
    with pytest.raises(UsageError, match="no such file"):
        find_weights(str(tmp_path / "absent.ckpt"), "contrastive")


@pytest.mark.parametrize(
    ("patched", "name"),
    [("builtins.open", "model.safetensors"), ("pathlib.Path.read_text", "config.json")],
)
def test_unreadable_weights_are_refused(tmp_path, monkeypatch, tiny, patched, name):
    """A patch raises the system's error, because root, who may run the tests, can read any file."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    config, state = tiny
    folder = write_bundle(tmp_path, state, config)
    monkeypatch.setattr(patched, refuse)
    with pytest.raises(UsageError, match=rf"{name}: cannot be read \(Permission denied\)"):
        find_weights(str(folder), "contrastive")


class _Hub(http.server.BaseHTTPRequestHandler):
    """Imitates the Hugging Face Hub for two files of one repository."""

    def do_GET(self, body=True):
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        self.server.requests.append((self.command, repo, revision, name))
        file = self.server.folder / name
        if repo != "ilex-hub/swift.hcp-sex.1" or not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.server.commits.get(revision, revision))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_HEAD(self):
        self.do_GET(body=False)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, tiny):
    """A Hub on this machine, and the environment variables that select it and a new cache."""
    config, state = tiny
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.folder = write_bundle(tmp_path / "served", state, config)
    server.commits, server.requests = {"main": "a" * 40, "v1": "b" * 40}, []
    server.environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1",
    }
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_once_and_then_work_offline(hub):
    """After `weights fetch`, with or without a revision, the cache needs no network."""
    call = ("weights", "fetch", "ilex-hub/swift.hcp-sex.1")
    first = run_app(*call, **hub.environment)
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"ilex-hub/swift.hcp-sex.1 at {PINNED}" in first.stdout
    fetched = [name for command, *_, name in hub.requests if command == "GET" and name]
    assert fetched == ["config.json", "model.safetensors"]
    other = run_app(*call, "--revision", "v1", **hub.environment)
    assert f"at {'b' * 40}" in other.stdout
    hub.requests.clear()
    offline = hub.environment | {"HF_HUB_OFFLINE": "1"}
    verified = run_app("weights", "verify", "ilex-hub/swift.hcp-sex.1@v1", **offline)
    assert verified.returncode == 0, verified.stderr
    assert f"at {'b' * 40}" in verified.stdout
    assert hub.requests == []
    absent = run_app("weights", "fetch", "ilex-hub/swift.contrastive.1", **hub.environment)
    assert absent.returncode == 2
    assert "swift.contrastive.1 are not in the Hugging Face cache and cannot" in absent.stderr


def test_weights_are_fetched_into_the_work_folder_without_a_cache(hub, tmp_path, reference_bundle):
    """A container may have no writable HOME."""
    hub.folder = reference_bundle
    write_derivative(tmp_path / "in", "sub-1_task-a")
    call = (tmp_path / "in", tmp_path / "out", "participant", "--variant", "hcp-sex")
    done = run_app(*call, "-w", tmp_path / "work", **hub.environment | {"HF_HOME": "/proc/none"})
    assert done.returncode == 0, done.stdout + done.stderr
    (kept,) = (tmp_path / "work" / "huggingface").rglob("model.safetensors")
    assert f"weights: {kept}" in done.stdout


def test_weights_are_fetched_into_a_folder(hub, tmp_path):
    folder = tmp_path / "fetched"
    call = ("weights", "fetch", "ilex-hub/swift.hcp-sex.1", "--to", folder)
    done = run_app(*call, **hub.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = find_weights(str(folder / "swift.hcp-sex.1"))
    assert found.sha256 == find_weights(str(hub.folder)).sha256


def test_a_folder_that_contains_one_bundle_is_accepted(tmp_path, tiny):
    """`weights fetch --to` makes such a folder; with two bundles the user must choose."""
    config, state = tiny
    bundle = write_bundle(tmp_path / "swift.contrastive.1", state, config)
    assert find_weights(str(tmp_path)).file == str(bundle / "model.safetensors")
    write_bundle(tmp_path / "swift.hcp-sex.1", state, config)
    with pytest.raises(UsageError, match="not exactly one bundle or checkpoint"):
        find_weights(str(tmp_path))


def test_checkpoint_to_bundle_and_back(tmp_path, tiny, capsys):
    """A converted checkpoint gives the same outputs, and the log lists all unused tensors."""
    config, state = tiny
    content = {
        "state_dict": {f"model.{k}": v for k, v in state.items()}
        | {"output_head.hidden.weight": torch.zeros(3, 3)},
        "hyper_parameters": config | {"learning_rate": 1e-3},
    }
    checkpoint = tmp_path / "hcp_sex_classification.ckpt"
    torch.save(content, checkpoint)
    assert main(["weights", "convert", str(checkpoint), str(tmp_path / "bundle")]) == 0
    printed = capsys.readouterr().out
    assert "converted_from       hcp_sex_classification.ckpt" in printed
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in printed
    assert "not used    norm.weight, norm.bias" in printed
    volumes = torch.randn(1, 1, *config["img_size"])
    networks = [SwiFT.from_pretrained(p) for p in (checkpoint, tmp_path / "bundle")]
    with torch.inference_mode():
        outputs = [network(volumes) for network in networks]
    assert torch.equal(*outputs)
    assert not networks[0].training
    assert all(parameter.requires_grad for parameter in networks[0].parameters())
    assert main(["weights", "verify", str(checkpoint)]) == 0
    assert (
        "not used    output_head.hidden.weight, norm.weight, norm.bias" in capsys.readouterr().out
    )
    assert main(["weights", "convert", str(checkpoint), str(tmp_path / "bundle")]) == 2
    assert "already contains model.safetensors" in capsys.readouterr().err
    assert main(["weights", "convert", str(tmp_path / "absent.ckpt"), str(tmp_path / "x")]) == 2


def register(monkeypatch, hub_id, revision=None, **file):
    """Replace what is known of a release by one file."""
    known = {"git_blob": None, "sha256": None, "verified": False, "reported_by": "a note"} | file
    monkeypatch.setitem(REGISTRY[hub_id], "files", [known])
    monkeypatch.setitem(REGISTRY[hub_id], "revision", revision)


def test_a_pinned_revision_is_the_one_that_is_used(tmp_path, monkeypatch, tiny):
    fill_hub_cache(tmp_path, monkeypatch, *tiny)
    assert find_weights(None, "hcp-sex").revision == PINNED
    monkeypatch.setitem(REGISTRY["ilex-hub/swift.hcp-sex.1"], "revision", "0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"not in the Hugging Face cache .*1@main is the newest"):
        find_weights(None, "hcp-sex")  # the cache has another revision


@pytest.mark.parametrize("digest", ["sha256", "git_blob"])
def test_a_file_that_contradicts_a_verified_digest_is_refused(tmp_path, monkeypatch, tiny, digest):
    fill_hub_cache(tmp_path, monkeypatch, *tiny)
    hub_id = "ilex-hub/swift.hcp-sex.1"
    file = {"name": "model.safetensors", digest: "0" * 40}
    register(monkeypatch, hub_id, PINNED, **file, verified=True)
    with pytest.raises(UsageError, match=r"not 0000.*delete it and fetch it again"):
        find_weights(None, "hcp-sex")
    register(monkeypatch, hub_id, PINNED, **file)
    assert find_weights(None, "hcp-sex").known_as is None  # reported only: a warning


def test_a_file_that_contradicts_a_reported_digest_leads_to_a_warning(
    tmp_path, monkeypatch, tiny, caplog
):
    fill_hub_cache(tmp_path, monkeypatch, *tiny)
    file = {"name": "model.safetensors", "sha256": "0" * 64}
    register(monkeypatch, "ilex-hub/swift.hcp-sex.1", PINNED, **file)
    find_weights(None, "hcp-sex")
    assert "not 0000" in caplog.text
    assert "which a note reports for model.safetensors" in caplog.text
    caplog.clear()
    register(monkeypatch, "ilex-hub/swift.hcp-sex.1", "0" * 40, **file)
    find_weights("ilex-hub/swift.hcp-sex.1@main", "hcp-sex")  # not the reported revision
    assert caplog.text == ""


def test_original_checkpoints_are_recognised_by_both_digests(tmp_path, monkeypatch, tiny, capsys):
    """git's own blob id of the same bytes is the truth."""
    config, state = tiny
    checkpoint = tmp_path / "contrastive_pretrained.ckpt"
    content = {"state_dict": {f"model.{k}": v for k, v in state.items()}}
    torch.save(content | {"hyper_parameters": config}, checkpoint)
    command = [require_program("git"), "hash-object", "--no-filters", checkpoint]
    blob = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    known = {"name": checkpoint.name, "sha256": sha256, "git_blob": blob}
    register(monkeypatch, "ilex-hub/swift.contrastive.1", **known)
    described = (
        "contrastive_pretrained.ckpt of ilex-hub/swift.contrastive.1 (reported, not verified here: "
        "a note)"
    )
    assert find_weights(str(checkpoint)).known_as == described
    assert main(["weights", "verify", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert f"SHA-256     {sha256}" in printed
    assert f"git blob    {blob}" in printed
    assert f"bytes       {checkpoint.stat().st_size}" in printed
    assert f"known as    {described}" in printed
    register(monkeypatch, "ilex-hub/swift.contrastive.1", **known | {"git_blob": "0" * 40})
    assert find_weights(str(checkpoint)).known_as is None


def test_another_file_with_the_name_of_an_original_leads_to_a_warning(tmp_path, tiny, caplog):
    config, state = tiny
    for name in ("contrastive_pretrained.ckpt", "hcp_sex_classification.ckpt", "own.ckpt"):
        content = {"state_dict": {f"model.{k}": v for k, v in state.items()}}
        torch.save(content | {"hyper_parameters": config}, tmp_path / name)
        find_weights(str(tmp_path / name))
    assert "not 5922c84b31b4e59de1c26ed4839689234ce401216f5a2a4fbbf6a4d5940cce3e" in caplog.text
    assert "its git blob id is" in caplog.text
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"junk", "is damaged, or neither a file of torch nor of safetensors; fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"", "is empty; fetch it again"),
    ],
)
def test_digests_of_a_damaged_checkpoint_are_printed(tmp_path, content, reason, capsys, caplog):
    checkpoint = tmp_path / "contrastive_pretrained.ckpt"
    checkpoint.write_bytes(content)
    assert main(["weights", "verify", str(checkpoint)]) == 2
    printed = capsys.readouterr()
    assert f"bytes       {len(content)}" in printed.out
    assert hashlib.sha256(content).hexdigest() in printed.out
    assert "known as    nothing" in printed.out
    assert reason in printed.err
    assert "not 5922c84b31b4" in caplog.text


def test_known_digests_have_their_lengths_and_sources():
    files = known_files()
    assert len(files) == 3
    for file in files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256 or "0" * 64)
        assert re.fullmatch("[0-9a-f]{40}", file.git_blob or "0" * 40)
        assert file.sha256 or file.git_blob
        assert file.reported_by
        assert not file.verified  # until an owner has confirmed them


def test_a_bundle_has_the_layout_of_the_hub(tmp_path):
    folder = write_random_bundle(tmp_path)
    assert sorted(p.name for p in Path(folder).iterdir()) == ["config.json", "model.safetensors"]
    kwargs = json.loads((folder / "config.json").read_text())["_ilex"]["constructor_kwargs"]
    assert kwargs["embed_dim"] == 36
    assert kwargs["last_layer_full_MSA"] is True
    state = load_file(folder / "model.safetensors")
    assert sum(t.numel() for t in state.values()) == 4_315_212
    save_file(state, tmp_path / "copy.safetensors")  # safetensors accepts contiguous tensors only
