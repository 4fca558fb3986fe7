"""--device -> the torch devices that run the network."""

from __future__ import annotations

import re

import torch

from swift_bids.base.errors import UsageError


def choose_devices(device: str) -> tuple[list[str], str | None]:
    """Turn `--device` into torch devices.

    Parameters
    ----------
    device
        `auto`, `cpu`, `cuda` (all GPUs that torch sees), `cuda:N` or `cuda:N,N,...`.

    Returns
    -------
    devices : list of str
        `cpu` alone, or `cuda:N` for each GPU.
    warning : str or None
        Message for the user if `auto` falls back to the CPU although torch was built for GPUs.

    Raises
    ------
    UsageError
        A requested GPU cannot be used, or there is no such device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+(,\d+)*)?", device):
        raise UsageError(
            f"--device {device}: there is no such device; choose auto, cpu, cuda, or GPUs by their "
            f"numbers, cuda:0 or cuda:0,2"
        )
    remedy = (
        "in a container, add --gpus all (docker) or --nv (apptainer); otherwise install a CUDA "
        "build of torch, or use --device cpu"
    )
    if device == "cpu":
        return ["cpu"], None
    if not torch.cuda.is_available():
        if device == "auto":
            built = torch.backends.cuda.is_built()
            return ["cpu"], f"found no usable GPU, using the CPU; {remedy}" if built else None
        raise UsageError(f"--device {device}: torch sees no GPU; {remedy}")
    n_visible = torch.cuda.device_count()
    listed = device.partition(":")[2]
    numbers = [int(number) for number in listed.split(",")] if listed else range(n_visible)
    if max(numbers) >= n_visible:
        raise UsageError(
            f"--device {device}: torch sees {n_visible} GPU(s), numbered from 0; choose some of "
            f"these"
        )
    return [f"cuda:{number}" for number in dict.fromkeys(numbers)], None
