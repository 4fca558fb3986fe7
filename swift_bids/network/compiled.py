"""The compiled kernel (`kernel/*.c`): the whole network on a CPU, for inference in float32.

The library is part of the wheel if a C compiler was there when it was built. torch computes
everything else: gradients, training, autocast, GPUs, other number formats and sizes.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift_bids.network.attention import Attention
from swift_bids.network.fused_linear import is_plain_inference
from swift_bids.network.mamba import Mamba

#: `torch` turns the kernel off; `AVX2`, `AVX-512` or `NEON` asks for an instruction set.
_VARIABLE = "SWIFT_BIDS_KERNEL"
#: The kernel pads the channels of a Mamba to a multiple of this.
_CHANNELS = 16
_Pointer, _Long, _Int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
#: Parts of the network that are torch's own.
_LAYERS = (nn.Linear, nn.LayerNorm, nn.Conv1d, nn.Dropout, nn.ModuleList)
#: Module -> what the kernel needs of its parameters.
_prepared: WeakKeyDictionary[nn.Module, dict[object, Any]] = WeakKeyDictionary()


class _Mamba(ctypes.Structure):
    """`struct mamba` of kernel.h."""

    _fields_ = [
        *((name, _Pointer) for name in (
            "in", "project", "step", "step_bias", "out", "conv", "conv_bias", "rate", "skip",
        )),
        *((name, _Int) for name in ("channels", "stride", "rank")),
    ]  # fmt: skip


class _Block(ctypes.Structure):
    """`struct block` of kernel.h."""

    _fields_ = [
        *((name, _Pointer) for name in (
            "norm1_gain", "norm1_bias",
            "norm2_gain", "norm2_bias", "linear1", "linear1_bias", "linear2", "linear2_bias",
            "qkv", "qkv_bias", "proj", "proj_bias", "mamba",
        )),
        *((name, _Int) for name in ("features", "hidden", "heads")),
    ]  # fmt: skip


class _Kernel(ctypes.Structure):
    """`struct kernel` of kernel.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("rows", _Int),
        (
            "block",
            ctypes.CFUNCTYPE(None, _Pointer, _Pointer, _Long, _Long, _Pointer, _Long, _Int, _Int),
        ),
        (
            "patches",
            ctypes.CFUNCTYPE(
                None, _Pointer, _Pointer, _Pointer, _Pointer, _Long, _Pointer, _Int, _Int
            ),
        ),
        (
            "merge",
            ctypes.CFUNCTYPE(None, *[_Pointer] * 6, _Long, _Pointer, _Int, _Int, _Int),
        ),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    """Load the library; None if the package was built without a compiler."""
    for file in Path(__file__).parent.glob("_kernel*.so"):
        try:
            library = ctypes.CDLL(str(file))
        except OSError:  # built for another processor, in a checkout that machines share
            return None
        library.swift_kernel.restype = ctypes.POINTER(_Kernel)
        library.swift_kernel.argtypes = [ctypes.c_char_p]
        return library
    return None


def kernel() -> _Kernel | None:
    """Return the kernel for this processor, or None if torch runs the network."""
    name = os.environ.get(_VARIABLE, "")
    library = _library()
    if name == "torch" or library is None:
        return None
    found = library.swift_kernel(name.encode() or None)
    return found.contents if found else None


def kernel_for(network: Any, x: Tensor) -> _Kernel | None:
    """Return the kernel that runs this network on this input, or None if torch runs it."""
    if not (x.is_cpu and x.dtype == torch.float32 and is_plain_inference(network)):
        return None
    if network.in_chans != 1 or network.patch_embed.patch_size[3] != 1:
        return None
    blocks = [layer.blocks[0] for layer in network.layers]
    if any(block.norm1.normalized_shape[0] % 4 for block in blocks):
        return None
    if any(isinstance(b.mixer, Attention) and b.mixer.qkv.bias is None for b in blocks):
        return None
    weight = network.patch_embed.fc.weight
    if not (weight.is_cpu and weight.dtype == torch.float32 and _is_unchanged(network)):
        return None
    return kernel()


def _is_unchanged(network: nn.Module) -> bool:
    """Return whether all parts are ours and have no hooks: the kernel would ignore what adapters,
    parametrisations and hooks do."""
    package = __name__.rpartition(".")[0]
    return all(
        (type(part) in _LAYERS or type(part).__module__.startswith(f"{package}."))
        and (part is network or not (part._forward_hooks or part._forward_pre_hooks))
        for part in network.modules()
    )


def kernel_name(
    network: nn.Module | None = None, precision: str = "float32", compiled: bool = False
) -> str:
    """Return what runs a network for inference: the instruction set of the kernel, or `torch`.

    Parameters
    ----------
    network
        A network on its device; None: the released network on the CPU.
    precision, compiled
        `--precision`, and whether torch.compile compiles the network.
    """
    if precision != "float32" or compiled:
        return "torch"
    with torch.inference_mode():
        found = kernel_for(network, torch.empty(0)) if network else kernel()
    return found.name.decode() if found else "torch"


def forward(chosen: _Kernel, network: Any, x: Tensor) -> Tensor:
    """Run the network with a kernel from `kernel_for`; see `SwiFT.forward`."""
    threads, rows = torch.get_num_threads(), chosen.rows
    x = x.contiguous()
    (b, _, nx, ny, nz, t), embed = x.shape, network.patch_embed
    grid = [n // p for n, p in zip((nx, ny, nz), embed.patch_size)]
    first, *positions = network.pos_embeds
    weight = _kept(embed, [embed.fc.weight], lambda: _pack(embed.fc.weight, rows), rows)
    offsets = [*first.parameters(), embed.fc.bias]
    table = _kept(first, offsets, lambda: (first.table(t) + embed.fc.bias).contiguous(), t)
    y = x.new_empty(b, *grid, t, len(embed.fc.bias))
    shape = (_Int * 7)(nx, ny, nz, t, *embed.patch_size[:3])
    chosen.patches(*_addresses(x, weight, table, y), b, shape, y.shape[-1], threads)
    for layer, position in zip(network.layers, [*positions, None]):
        for block in layer.blocks:
            _run_block(chosen, block, y, threads)
        if position is not None:
            y = _merge(chosen, layer.downsample, position, y, threads)
    return y.permute(0, 5, 1, 2, 3, 4)


def _run_block(chosen: _Kernel, block: Any, x: Tensor, threads: int) -> None:
    """Run a block in place on (B, x, y, z, t, C) tokens."""
    (b, *grid, features), rows = x.shape, chosen.rows
    mixer = block.mixer

    def prepare() -> tuple[_Block, list[Any]]:
        layers = [block.mlp.linear1, block.mlp.linear2]
        layers += [mixer.qkv, mixer.proj] if isinstance(mixer, Attention) else []
        tensors = [t for norm in (block.norm1, block.norm2) for t in (norm.weight, norm.bias)]
        tensors += [t for layer in layers for t in (_pack(layer.weight, rows), layer.bias)]
        tensors = [t.detach().contiguous() for t in tensors]
        prepared = _Block(*_addresses(*tensors))
        prepared.features, prepared.hidden = features, len(block.mlp.linear1.bias)
        kept: list[Any] = tensors  # the structures do not keep what they point to
        if isinstance(mixer, Attention):
            prepared.heads = mixer.num_heads
        else:
            mamba, of_mamba = _prepare_mamba(mixer, rows)
            prepared.mamba = ctypes.addressof(mamba)
            kept = [*tensors, *of_mamba, mamba]
        return prepared, kept

    weights, _ = _kept(block, list(block.parameters()), prepare, rows)
    for index, _ in block.pieces(tuple(grid), x.device):
        chosen.block(
            ctypes.addressof(weights),
            x.data_ptr(),
            b,
            x[0].numel() // features,
            index.data_ptr(),
            *index.shape,
            threads,
        )


def _prepare_mamba(mamba: Mamba, rows: int) -> tuple[_Mamba, list[Tensor]]:
    """Return a Mamba as the kernel reads it, and the tensors to which it points."""
    channels = len(mamba.D)
    stride = -(-channels // _CHANNELS) * _CHANNELS

    def padded(of_channels: Any) -> Tensor:
        """(..., channel) -> (..., stride)."""
        return F.pad(of_channels.detach(), (0, stride - channels)).contiguous()

    tensors = [
        _pack(mamba.in_proj.weight, rows),
        _pack(mamba.x_proj.weight, rows),
        _pack(mamba.dt_proj.weight, rows),
        mamba.dt_proj.bias.detach().contiguous(),
        _pack(mamba.out_proj.weight, rows),
        padded(mamba.conv1d.weight[:, 0].T),
        padded(mamba.conv1d.bias),
        padded((-torch.exp(mamba.A_log) / math.log(2)).T),
        padded(mamba.D),
    ]
    return _Mamba(*_addresses(*tensors), channels, stride, mamba.rank), tensors


def _merge(chosen: _Kernel, layer: Any, position: Any, x: Tensor, threads: int) -> Tensor:
    """Merge 2x2x2 tokens and add the embeddings of their new positions."""
    (b, nx, ny, nz, t, features), rows = x.shape, chosen.rows
    reduction = layer.reduction.weight
    weight = _kept(layer, [reduction], lambda: _pack(reduction, rows), rows)
    table = _kept(position, list(position.parameters()), lambda: position.table(t).contiguous(), t)
    y = x.new_empty(b, nx // 2, ny // 2, nz // 2, t, len(reduction))
    gain, bias = layer.norm.weight.detach(), layer.norm.bias.detach()
    shape = (_Int * 4)(nx, ny, nz, t)
    addresses = _addresses(x, gain, bias, weight, table, y)
    chosen.merge(*addresses, b, shape, features, y.shape[-1], threads)
    return y


def _pack(weight: Tensor, rows: int) -> Tensor:
    """(out, in) -> blocks of up to `rows` outputs, each (in, rows), one after the other."""
    return torch.cat([block.T.flatten() for block in weight.detach().split(rows)])


def _addresses(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _kept(
    module: nn.Module, parameters: Sequence[Tensor], make: Callable[[], Any], key: object
) -> Any:
    """Return `make()`, made once for each key and again after a parameter has changed."""
    version = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters]
    made = _prepared.setdefault(module, {})
    if key not in made or made[key][0] != version:
        with torch.no_grad():
            made[key] = version, make()
    return made[key][1]
