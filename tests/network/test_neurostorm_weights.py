"""NeuroSTORM's files of weights: Hub bundles and original checkpoints, told apart from SwiFT's."""

import argparse

import pytest
import torch
from make_data import write_bundle

from swift_bids import NeuroSTORM, SwiFT, from_pretrained
from swift_bids.base.backbones import BACKBONES, DEFAULT_VARIANT
from swift_bids.base.errors import UsageError
from swift_bids.cli.main import main
from swift_bids.network.bundles import write_random_bundle
from swift_bids.network.given import network_of, variant_of
from swift_bids.network.known_weights import HUB_IDS, REGISTRY
from swift_bids.network.load import network_from_file
from swift_bids.network.released import RELEASED_CONFIG

#: What the masked autoencoder has besides the encoder.
DECODER = ("first_patch_expanding.expand.weight", "layers_up.0.blocks.0.mamba.D", "norm_up.weight")
DECODER += ("decoder_pred.weight", "mask_token", "window_mask_token", "atlas_mask_token")


@pytest.fixture
def tiny(neurostorm_recipe):
    """(constructor arguments, state dict) of a small network."""
    config, spec, _, shapes = neurostorm_recipe.load_case("tiny")
    state = neurostorm_recipe.make_state_dict(shapes, spec["weights_seed"])
    return config, {name: torch.from_numpy(value) for name, value in state.items()}


def same(network, state):
    return all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())


def write_checkpoint(file, config, state, **others):
    """A checkpoint of Lightning as the original writes it, with its autoencoder and optimiser."""
    extra = {f"model.{name}": torch.ones(3) for name in DECODER}
    tensors = {f"model.{name}": tensor for name, tensor in state.items()}
    settings = argparse.Namespace(**config, model="swin4d_mae", pretraining=True, mask_ratio=0.5)
    content = {"state_dict": tensors | extra | others, "hyper_parameters": vars(settings)}
    torch.save(content | {"epoch": 3, "optimizer_states": [{"state": {}}]}, file)
    return file


def test_an_original_checkpoint(tmp_path, tiny):
    file = write_checkpoint(tmp_path / "pt_fmrifound_mae_ratio0.5.ckpt", *tiny)
    network = from_pretrained(file)
    assert isinstance(network, NeuroSTORM)
    assert same(network, tiny[1])
    assert not network.training


def test_a_bundle_with_names_of_jax_and_the_decoder(tmp_path, tiny):
    config, state = tiny
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("layers.0.", "layers[0].").replace("blocks.1.", "blocks[1].")
        if name.endswith("in_proj.weight"):
            name, tensor = name.replace("weight", "kernel"), tensor.T.contiguous()
        renamed[name] = tensor
    folder = write_bundle(tmp_path / "w", renamed | {n: torch.ones(3) for n in DECODER}, config)
    network = from_pretrained(folder)
    assert isinstance(network, NeuroSTORM)
    assert same(network, state)


def test_the_number_of_heads_is_not_needed(tmp_path, tiny, reference_state):
    """A Mamba has none; attention has, and they are not visible in the weights."""
    config = {key: value for key, value in tiny[0].items() if key != "num_heads"}
    assert same(from_pretrained(write_bundle(tmp_path / "a", tiny[1], config)), tiny[1])
    swift = write_bundle(tmp_path / "b", reference_state("tiny"), config)
    with pytest.raises(UsageError, match="the network's settings lack num_heads"):
        from_pretrained(swift)


@pytest.mark.parametrize("ratio", ["0.5", "0.8"])
def test_bundles_are_found_by_name(tmp_path, monkeypatch, tiny, ratio):
    """In the folder of a container; the variant is that of the bundle."""
    config, state = tiny
    hub_id = f"ilex-hub/neurostorm.ratio{ratio}.1"
    assert REGISTRY[hub_id]["variant"] == "neurostorm-mae"
    write_bundle(tmp_path / hub_id.partition("/")[2], state, config)
    monkeypatch.setenv("SWIFT_BIDS_WEIGHTS", str(tmp_path))
    assert HUB_IDS["neurostorm-mae"] == "ilex-hub/neurostorm.ratio0.5.1"
    for name in [hub_id, *(["neurostorm-mae"] if ratio == "0.5" else [])]:
        network = from_pretrained(name)
        assert network.variant == "neurostorm-mae"
        assert same(network, state)


def test_prompts_and_wrong_tensors_are_refused(tmp_path, tiny):
    config, state = tiny
    prompt = {"model.layers.0.blocks.0.prompt": torch.ones(1, 50, 12)}
    file = write_checkpoint(tmp_path / "task.ckpt", config, state, **prompt)
    with pytest.raises(UsageError, match=r"contains prompts of a fine-tuning \(layers\.0"):
        from_pretrained(file)
    del state["layers.1.blocks.0.mamba.A_log"]
    state["layers.0.blocks.0.mamba.D"] = torch.ones(5)
    file = write_checkpoint(tmp_path / "bad.ckpt", config, state)
    with pytest.raises(UsageError, match="the weights of a NeuroSTORM backbone") as refused:
        from_pretrained(file)
    assert "missing: layers.1.blocks.0.mamba.A_log" in str(refused.value)
    assert "layers.0.blocks.0.mamba.D (5,) instead of (24,)" in str(refused.value)


def test_a_class_refuses_the_other_network(tmp_path, tiny):
    folder = write_bundle(tmp_path / "w", tiny[1], tiny[0])
    with pytest.raises(UsageError, match="the weights of a SwiFT backbone"):
        SwiFT.from_pretrained(folder)


@pytest.mark.parametrize("variant", BACKBONES)
def test_random_bundles_have_the_network_of_the_variant(tmp_path, variant):
    network = from_pretrained(write_random_bundle(tmp_path, variant), random_weights=True)
    assert network.title == BACKBONES[variant].network.title
    channels = BACKBONES[variant].network.token_shape[0]
    assert network.n_features == channels
    assert network.img_size == (96, 96, 96, BACKBONES[variant].network.chunk_volumes)


def test_variants_with_random_weights_and_typing_errors():
    network = from_pretrained("neurostorm-mae", random_weights=True)
    assert (network.title, network.variant) == ("NeuroSTORM", "neurostorm-mae")
    again = from_pretrained("neurostorm-mae", random_weights=True)
    assert same(network, again.state_dict())
    with pytest.raises(UsageError, match="the variants are contrastive, hcp-sex, neurostorm-mae"):
        from_pretrained("neurostorm_mae")


def test_the_variant_of_a_network():
    config = RELEASED_CONFIG | {"embed_dim": 6, "depths": (1,) * 4, "num_heads": (1,) * 4}
    swift, neurostorm = SwiFT(**config), NeuroSTORM(**config)
    assert variant_of(swift, None) == DEFAULT_VARIANT
    assert variant_of(neurostorm, None) == "neurostorm-mae"
    swift.variant = "hcp-sex"
    assert variant_of(swift, None) == "hcp-sex"
    assert variant_of(swift, "contrastive") == "contrastive"
    with pytest.raises(UsageError, match="choose contrastive or hcp-sex"):
        variant_of(swift, "neurostorm-mae")


def test_a_network_in_a_module_and_its_state_dict(tiny):
    network = NeuroSTORM(**tiny[0])
    assert network_of(torch.nn.Sequential(network)) is network
    released = NeuroSTORM(**RELEASED_CONFIG).state_dict()
    of_checkpoint = {f"model.{name}": tensor for name, tensor in released.items()}
    for given in (released, of_checkpoint | {"model.mask_token": torch.ones(3)}):
        found = network_of(given)
        assert isinstance(found, NeuroSTORM)
        assert same(found, released)


def test_conversion_and_verification(tmp_path, tiny, capsys):
    file = write_checkpoint(tmp_path / "mae.ckpt", *tiny)
    assert main(["weights", "convert", str(file), str(tmp_path / "bundle")]) == 0
    said = capsys.readouterr().out
    assert f"{sum(tensor.numel() for tensor in tiny[1].values()):,} parameters" in said
    assert "mask_token" not in said  # left out of the bundle
    network = network_from_file(tmp_path / "bundle" / "model.safetensors")
    assert isinstance(network, NeuroSTORM)
    assert same(network, tiny[1])
    assert main(["weights", "verify", str(file)]) == 0
    assert "mask_token" in capsys.readouterr().out
