"""The selective scan of Mamba-1 (Gu and Dao 2023, arXiv:2312.00752) in plain torch.

    h_t = exp(delta_t A) h_(t-1) + delta_t x_t B_t,   y_t = C_t . h_t,   h_0 = 0

for each channel, with 16 states per channel. The formula is sequential in t. On a CPU, one step for
many windows fills the vectors of the processor, so `selective_scan` goes step by step. On a GPU it
cuts each sequence into segments and scans all of them at the same time; a second scan over the ends
of the segments then yields the state with which each began, and what this state adds to its
outputs. All exponents are negative, so no product overflows, however long the sequence is.

The states of all tokens would take gigabytes, so the backward pass computes them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

#: Steps of a segment on a GPU: 256 tokens take 16 + 16 steps instead of 256.
SEGMENT = 16
#: Most values of one array of states on a GPU; five such arrays of 64 MB exist at the same time.
_MAX_VALUES = 2**24
#: Steps whose decays and inputs are computed together on a CPU, and the windows that go through
#: them together; with 16 states of 72 channels, they take 4.7 MB.
_STEPS, _WINDOWS = 16, 64
#: Windows of which the backward pass on a CPU holds all states; three arrays of 9 MB.
_WINDOWS_BACKWARD = 8


def selective_scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Scan sequences of tokens, one in each window.

    Parameters
    ----------
    x, delta
        (token, window, channel): input and step size.
    a
        (channel, state): A, negative.
    b, c
        (token, window, state): B and C.

    Returns
    -------
    Tensor
        y, (token, window, channel), without the skip connection D x.
    """
    if x.is_cpu:
        return _StepByStep.apply(x, delta, a, b, c)
    parts = _parts(max(1, _MAX_VALUES // (len(x) * a.numel())), x, delta, b, c)
    if not torch.is_grad_enabled():
        return torch.cat([in_segments(x, delta, a, b, c) for x, delta, b, c in parts], dim=1)
    return torch.cat(
        [
            checkpoint(in_segments, x, delta, a, b, c, use_reentrant=False)
            for x, delta, b, c in parts
        ],
        dim=1,
    )


def _parts(windows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield some windows of all tensors at a time."""
    return zip(*(tensor.split(windows, dim=1) for tensor in tensors))


class _StepByStep(torch.autograd.Function):
    """The scan on a CPU, and its gradients."""

    @staticmethod
    def forward(context: Any, x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        context.save_for_backward(x, delta, a, b, c)
        return step_by_step(x, delta, a, b, c)

    @staticmethod
    @once_differentiable
    def backward(context: Any, of_y: Tensor) -> tuple[Tensor, ...]:
        x, delta, a, b, c = context.saved_tensors
        of_a = torch.zeros_like(a)
        gradients = []
        for part in _parts(_WINDOWS_BACKWARD, x, delta, b, c, of_y):
            *of_part, added = _gradients(a, *part)
            gradients.append(of_part)
            of_a += added
        of_x, of_delta, of_b, of_c = (torch.cat(tensors, dim=1) for tensors in zip(*gradients))
        return of_x, of_delta, of_a, of_b, of_c


def step_by_step(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Scan in order, some windows and steps at a time; as for `selective_scan`.

    States come before channels, which fill the vectors of the processor.
    """
    a = a.T[:, None].contiguous()  # (state, 1, channel)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    windows, tokens = min(_WINDOWS, x.shape[1]), min(_STEPS, len(x))
    # Used again and again: memory that is new costs more than the arithmetic.
    state = x.new_empty(len(a), windows, x.shape[2])
    memory = x.new_empty(2, tokens, *state.shape)
    for part_x, part_delta, part_b, part_c, part_y in _parts(windows, x, delta, b, c, y):
        inputs, part_delta = ((part_delta * part_x).unsqueeze(1), part_delta.unsqueeze(1))
        part_b, part_c = _states_first(part_b), _states_first(part_c)
        used = state[:, : part_x.shape[1]].zero_()
        for start in range(0, len(x), tokens):
            now = slice(start, start + tokens)
            decay, states = memory[:, : len(inputs[now]), :, : part_x.shape[1]]
            torch.mul(part_delta[now], a, out=decay).exp_()
            torch.mul(inputs[now], part_b[now], out=states)
            before = used
            for after, factor in zip(states, decay):
                before = after.addcmul_(before, factor)
            used.copy_(before)
            torch.sum(states.mul_(part_c[now]), dim=1, out=part_y[now])
    return y


def _gradients(
    a: Tensor, x: Tensor, delta: Tensor, b: Tensor, c: Tensor, of_y: Tensor
) -> tuple[Tensor, ...]:
    """Gradients with respect to x, delta, b, c and a, given those with respect to y.

    The state h_t takes part in y_t and, by its decay, in h_(t+1): the gradients of the states
    follow from the last token to the first.
    """
    a = a.T[:, None]  # (state, 1, channel)
    b, c = _states_first(b), _states_first(c)
    decay = torch.exp(delta.unsqueeze(1) * a)  # (token, state, window, channel)
    inputs = (delta * x).unsqueeze(1)
    states = inputs * b
    for now in range(1, len(x)):
        states[now].addcmul_(states[now - 1], decay[now])
    of_c = (states * of_y.unsqueeze(1)).sum(-1)
    of_states = of_y.unsqueeze(1) * c
    for now in range(len(x) - 2, -1, -1):
        of_states[now].addcmul_(of_states[now + 1], decay[now + 1])
    of_b = (of_states * inputs).sum(-1)
    of_inputs = (of_states * b).sum(1)
    # of the exponents delta_t A
    of_exponents = decay.mul_(of_states)
    of_exponents[1:].mul_(states[:-1])
    of_exponents[0] = 0
    of_delta = (of_exponents * a).sum(1).addcmul_(of_inputs, x)
    of_a = (of_exponents * delta.unsqueeze(1)).sum((0, 2)).T
    return of_inputs * delta, of_delta, of_b.transpose(1, 2), of_c.transpose(1, 2), of_a


def _states_first(tensor: Tensor) -> Tensor:
    """(token, window, state) -> (token, state, window, 1)."""
    return tensor.transpose(1, 2).unsqueeze(-1).contiguous()


def in_segments(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Scan all segments of `SEGMENT` tokens at the same time, then carry their states over; as for
    `selective_scan`."""
    tokens, windows, channels = x.shape
    missing = -tokens % SEGMENT  # steps of size 0 change no state

    def segments(tensor: Tensor) -> Tensor:
        """(token, window, ...) -> (segment, token of the segment, window, ...)."""
        padded = torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, missing))
        return padded.view(-1, SEGMENT, windows, tensor.shape[-1])

    delta, b, c = segments(delta), segments(b), segments(c)
    inputs = (delta * segments(x)).unsqueeze(-1) * b.unsqueeze(3)  # (..., channel, state)
    decay = torch.exp(delta.unsqueeze(-1) * a)
    # What has become of the state before a segment, after each of its tokens.
    remains = torch.exp(delta.cumsum(1).unsqueeze(-1) * a)
    state = torch.zeros_like(inputs[:, 0])
    within = []
    for token in range(SEGMENT):
        state = decay[:, token] * state + inputs[:, token]
        within.append(state)
    begin = [torch.zeros_like(state[0])]
    for end, added in zip(remains[:-1, -1], state):
        begin.append(end * begin[-1] + added)
    states = torch.stack(within, dim=1) + remains * torch.stack(begin).unsqueeze(1)
    y = torch.einsum("stwdn,stwn->stwd", states, c)
    return y.reshape(-1, windows, channels)[:tokens]
