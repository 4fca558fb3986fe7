"""Weights as trainings and downloads leave them: wrappers, heads, several networks, settings."""

import argparse
import collections
import fractions
import gzip
import json
import pathlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from swift_bids import SwiFT
from swift_bids.base.errors import UsageError
from swift_bids.cli.main import main
from swift_bids.network.checkpoint import read_backbone
from swift_bids.network.load import class_with
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.weights import find_weights


@pytest.fixture(scope="module")
def small():
    """(constructor arguments, state dict) of a network that is quickly made."""
    config = RELEASED_CONFIG | {
        "embed_dim": 6,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 1, 1, 1),
    }
    torch.manual_seed(0)
    return config, SwiFT(**config).state_dict()


def named(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def same(source, state):
    found = SwiFT.from_pretrained(source).state_dict()
    return all(torch.equal(found[name], tensor.float()) for name, tensor in state.items())


#: Other tensors that trainings keep beside the backbone.
HEADS = {
    "output_head.mlp.weight": torch.zeros(2, 3),
    "projection_head.0.weight": torch.zeros(2, 3),
    "criterion.weight": torch.zeros(2),
}


@pytest.mark.parametrize(
    "names",
    [
        lambda state: named(state, "model."),
        lambda state: named(state, "model._orig_mod."),
        lambda state: named(state, "module.model."),
        lambda state: named(state | HEADS, "_orig_mod."),
        lambda state: named(named(state, "model.") | HEADS, "_orig_mod."),
        lambda state: named(named(state, "model.") | HEADS, "module."),
        lambda state: named(named(state, "model."), "_forward_module._orig_mod.module."),
        lambda state: state | HEADS,
        lambda state: state | named(HEADS, "classifier."),
        lambda state: {
            name.replace("layers.0.", "layers.0._orig_mod."): t for name, t in state.items()
        },
        lambda state: {
            name.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): t
            for name, t in state.items()
        },
        lambda state: named(state, "encoder.backbone."),
        lambda state: {name: tensor.half() for name, tensor in state.items()},
        lambda state: {name: tensor.bfloat16() for name, tensor in state.items()},
        lambda state: {name: tensor.double() for name, tensor in state.items()},
        lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
        lambda state: state | {"num_batches": torch.tensor(5), "model.scale_": torch.ones(1)},
    ],
)
def test_backbones_in_wrappers_and_beside_heads(tmp_path, small, names):
    config, state = small
    kept = names(state)
    torch.save({"state_dict": kept, "hyper_parameters": config}, tmp_path / "a.ckpt")
    like = next(iter(kept.values())).dtype
    assert same(tmp_path / "a.ckpt", {name: t.to(like) for name, t in state.items()})


@pytest.mark.parametrize(
    "content",
    [
        lambda state, config: {"model": state, "args": argparse.Namespace(**config, lr=0.1)},
        lambda state, config: {"model_state_dict": state, "epoch": 5, "config": config},
        lambda state, config: {"net": {"encoder": state}, "hparams": config},
        lambda state, config: {
            "state_dict": state,
            "hyper_parameters": config,
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        },
        lambda state, config: {
            "state_dict": collections.OrderedDict(state),
            "hyper_parameters": config
            | {
                "lr": np.float64(1e-3),
                "seed": np.int64(3),
                "out": pathlib.PurePosixPath("/a/b"),
                "here": pathlib.Path("a"),
                "windows": pathlib.PureWindowsPath("c:/a"),
                "counts": collections.defaultdict(list, a=[1]),
                "array": np.arange(3.0),
                "kind": np.dtype("float32"),
                "flag": np.bool_(True),
                "name": np.str_("x"),
                "device": torch.device("cpu"),
                "dtype": torch.float32,
                "choices": {1, 2},
            },
        },
    ],
)
def test_places_and_harmless_settings(tmp_path, small, content):
    config, state = small
    torch.save(content(state, config), tmp_path / "a.pt")
    assert same(tmp_path / "a.pt", state)


def test_a_refused_class_is_named(tmp_path, small):
    config, state = small
    settings = config | {"ratio": fractions.Fraction(1, 2)}
    torch.save({"state_dict": state, "hyper_parameters": settings}, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match=r"an object of fractions\.Fraction, which could run code"):
        find_weights(str(tmp_path / "a.ckpt"))
    torch.save(SwiFT(**config), tmp_path / "whole.pt")
    with pytest.raises(UsageError, match=r"swift\.SwiFT, which .* save its state_dict alone"):
        find_weights(str(tmp_path / "whole.pt"))


@pytest.mark.parametrize(
    "name", ["a.ckpt", "a.pth", "a.pt", "pytorch_model.bin", "weights", "a.tar"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_content_decides_and_not_the_suffix(tmp_path, small, name, zipped):
    config, state = small
    content = {"state_dict": state, "hyper_parameters": config}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert same(tmp_path / name, state)


def test_safetensors_under_another_name(tmp_path, small):
    config, state = small
    save_file(state, tmp_path / "weights.bin")
    (tmp_path / "config.json").write_text(json.dumps({"_ilex": {"constructor_kwargs": config}}))
    assert same(tmp_path / "weights.bin", state)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files(tmp_path, small, kind, capsys):
    config, state = small
    names = list(state)
    parts = {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        file = f"model-0000{number}-of-00002.{kind}"
        content = {name: state[name] for name in part}
        (save_file if kind == "safetensors" else torch.save)(content, tmp_path / file)
        parts |= dict.fromkeys(part, file)
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    with pytest.raises(UsageError, match=r"there is no config\.json beside it"):
        find_weights(str(index))
    (tmp_path / "config.json").write_text(json.dumps({"_ilex": {"constructor_kwargs": config}}))
    assert same(index, state)
    assert same(tmp_path, state)
    before = find_weights(str(tmp_path)).sha256
    assert main(["weights", "verify", str(tmp_path)]) == 0
    assert f"SHA-256     {before}" in capsys.readouterr().out
    second = tmp_path / f"model-00002-of-00002.{kind}"
    second.write_bytes(second.read_bytes() + b" ")
    assert find_weights(str(tmp_path)).sha256 != before
    second.unlink()
    with pytest.raises(UsageError, match=r"model-00002-of-00002\.\w+ is missing beside it"):
        find_weights(str(index))
    index.write_text("{}")
    with pytest.raises(UsageError, match="is not an index of weights"):
        find_weights(str(index))


def test_two_networks_in_one_file(tmp_path, small):
    config, state = small
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    both = named(state, "model.") | named(averaged, "ema_model.module.")
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": both | HEADS, "hyper_parameters": config}, file)
    with pytest.raises(UsageError) as error:
        SwiFT.from_pretrained(file)
    expected = (
        f"{file}: contains 2 networks (model, ema_model); choose one, for example --weights "
        f"a.ckpt@model"
    )
    assert str(error.value) == expected
    assert same(f"{file}@model", state)
    assert same(f"{file}@ema_model", averaged)
    weights = find_weights(f"{file}@ema_model")
    assert weights.name.endswith("/a.ckpt@ema_model")
    assert weights.sha256 == find_weights(f"{file}@model").sha256
    backbone = read_backbone(f"{file}@ema_model", class_with)
    assert set(HEADS) < set(backbone.unused)
    with pytest.raises(UsageError, match="contains no network student, but model, ema_model"):
        SwiFT.from_pretrained(f"{file}@student")


def test_a_network_that_is_kept_by_a_callback(tmp_path, small):
    config, state = small
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    content = {
        "state_dict": named(state, "model."),
        "callbacks": {"EMA": {"ema_state_dict": named(averaged, "model.")}},
        "hyper_parameters": config,
    }
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match=r"\(model, callbacks\.EMA\.ema_state_dict\.model\)"):
        SwiFT.from_pretrained(tmp_path / "a.ckpt")
    assert same(f"{tmp_path / 'a.ckpt'}@callbacks.EMA.ema_state_dict.model", averaged)


def test_a_file_with_at_in_its_name(tmp_path, small):
    config, state = small
    torch.save({"state_dict": state, "hyper_parameters": config}, tmp_path / "a@b.ckpt")
    assert same(tmp_path / "a@b.ckpt", state)


def test_without_settings_the_released_ones_must_fit(tmp_path, small, caplog):
    config, state = small
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 0.1}}, tmp_path / "a.ckpt")
    with pytest.raises(
        UsageError,
        match=r"does not say what its network is like, and is not like the released ones \(.* and "
        r"\d+ more\); put the config\.json of the network beside it",
    ) as error:
        SwiFT.from_pretrained(tmp_path / "a.ckpt")
    assert len(str(error.value)) < 700
    (tmp_path / "config.json").write_text(json.dumps({"_ilex": {"constructor_kwargs": config}}))
    assert same(tmp_path / "a.ckpt", state)
    released = SwiFT(**RELEASED_CONFIG).state_dict()
    (tmp_path / "b").mkdir()
    torch.save(released, tmp_path / "b" / "released.pth")
    assert same(tmp_path / "b" / "released.pth", released)
    assert read_backbone(tmp_path / "b" / "released.pth", class_with).assumed


def test_another_architecture_gets_a_short_message(tmp_path):
    resnet = {f"layer{i}.conv{j}.weight": torch.zeros(2) for i in range(40) for j in range(9)}
    torch.save({"state_dict": resnet}, tmp_path / "resnet.pth")
    with pytest.raises(UsageError, match=r"missing: .* and \d+ more") as error:
        SwiFT.from_pretrained(tmp_path / "resnet.pth")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Sign in", "is a web page, not weights; download the file itself"),
        (b"\n <html>", "is a web page, not weights"),
        (gzip.compress(b"x", mtime=0), "is compressed with gzip; unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
        (b"", "is empty; fetch it again"),
        (pickle.dumps([1, 2]), r"cannot be read|contains no state_dict"),
    ],
)
def test_downloads_that_are_no_weights(tmp_path, content, message):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        find_weights(str(tmp_path / "a.ckpt"))


def test_a_chosen_network_becomes_a_bundle(tmp_path, small):
    config, state = small
    both = named(state, "student.") | named(state, "teacher.")
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": both, "hyper_parameters": config}, file)
    assert main(["weights", "convert", f"{file}@teacher", str(tmp_path / "bundle")]) == 0
    about = json.loads((tmp_path / "bundle" / "config.json").read_text())["_swift_bids"]
    assert about["network"] == "teacher"
    assert same(tmp_path / "bundle", state)
