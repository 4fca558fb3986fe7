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
    """Scan sequences of tokens.

    Parameters
    ----------
    x, delta
        (window, token, channel): input and step size.
    a
        (channel, state): A, negative.
    b, c
        (window, token, state): B and C.

    Returns
    -------
    Tensor
        y, (window, token, channel), without the skip connection D x.
    """
    if x.is_cpu:
        return _StepByStep.apply(x, delta, a, b, c)
    windows = max(1, _MAX_VALUES // (x.shape[1] * a.numel()))
    parts = zip(*(tensor.split(windows) for tensor in (x, delta, b, c)))
    if not torch.is_grad_enabled():
        return torch.cat([in_segments(x, delta, a, b, c) for x, delta, b, c in parts])
    return torch.cat(
        [
            checkpoint(in_segments, x, delta, a, b, c, use_reentrant=False)
            for x, delta, b, c in parts
        ]
    )


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
        parts = zip(*(tensor.split(_WINDOWS_BACKWARD) for tensor in (x, delta, b, c, of_y)))
        gradients = []
        for x, delta, b, c, of_y in parts:
            *of_part, added = _gradients(x, delta, a, b, c, of_y)
            gradients.append(of_part)
            of_a += added
        of_x, of_delta, of_b, of_c = (torch.cat(tensors) for tensors in zip(*gradients))
        return of_x, of_delta, of_a, of_b, of_c


def step_by_step(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Scan in order, some windows and steps at a time; as for `selective_scan`.

    States come before channels, which fill the vectors of the processor.
    """
    a = a.T[:, None].contiguous()  # (state, 1, channel)
    y = torch.empty_like(x)
    windows, tokens = min(_WINDOWS, len(x)), min(_STEPS, x.shape[1])
    # Used again and again: memory that is new costs more than the arithmetic.
    state = x.new_empty(len(a), windows, x.shape[2])
    memory = x.new_empty(2, tokens, *state.shape)
    parts = (tensor.split(windows) for tensor in (x, delta, b, c, y))
    for part_x, part_delta, part_b, part_c, part_y in zip(*parts):
        steps = part_delta.transpose(0, 1).contiguous()  # (token, window, channel)
        inputs = (steps * part_x.transpose(0, 1)).unsqueeze(1)
        steps = steps.unsqueeze(1)
        part_b, part_c = (_by_token(tensor) for tensor in (part_b, part_c))
        used = state[:, : len(part_x)].zero_()
        for start in range(0, len(steps), tokens):
            now = slice(start, start + tokens)
            decay, states = memory[:, : len(steps[now]), :, : len(part_x)]
            torch.mul(steps[now], a, out=decay).exp_()
            torch.mul(inputs[now], part_b[now], out=states)
            before = used
            for after, factor in zip(states, decay):
                before = after.addcmul_(before, factor)
            used.copy_(before)
            part_y[:, now] = states.mul_(part_c[now]).sum(1).transpose(0, 1)
    return y


def _gradients(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, of_y: Tensor
) -> tuple[Tensor, ...]:
    """Gradients with respect to x, delta, b, c and a, given those with respect to y.

    The state h_t takes part in y_t and, by its decay, in h_(t+1): the gradients of the states
    follow from the last token to the first.
    """
    a = a.T[:, None]  # (state, 1, channel)
    x, delta, of_y = (tensor.transpose(0, 1).contiguous() for tensor in (x, delta, of_y))
    b, c = _by_token(b), _by_token(c)  # (token, state, window, 1)
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
    of_x = of_inputs * delta
    of_b, of_c = (tensor.permute(2, 0, 1) for tensor in (of_b, of_c))
    return of_x.transpose(0, 1), of_delta.transpose(0, 1), of_b, of_c, of_a


def _by_token(tensor: Tensor) -> Tensor:
    """(window, token, state) -> (token, state, window, 1)."""
    return tensor.permute(1, 2, 0).unsqueeze(-1).contiguous()


def in_segments(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Scan all segments of `SEGMENT` tokens at the same time, then carry their states over; as for
    `selective_scan`."""
    windows, tokens, channels = x.shape
    missing = -tokens % SEGMENT  # steps of size 0 change no state

    def segments(tensor: Tensor) -> Tensor:
        """(window, token, ...) -> (window, segment, token of the segment, ...)."""
        padded = torch.nn.functional.pad(tensor, (0, 0, 0, missing))
        return padded.view(windows, -1, SEGMENT, tensor.shape[-1])

    delta, b, c = segments(delta), segments(b), segments(c)
    inputs = (delta * segments(x)).unsqueeze(-1) * b.unsqueeze(3)  # (..., channel, state)
    decay = torch.exp(delta.unsqueeze(-1) * a)
    # What has become of the state before a segment, after each of its tokens.
    remains = torch.exp(delta.cumsum(2).unsqueeze(-1) * a)
    state = inputs.new_zeros(*inputs.shape[:2], *inputs.shape[3:])
    within = []
    for token in range(SEGMENT):
        state = decay[:, :, token] * state + inputs[:, :, token]
        within.append(state)
    begin = [torch.zeros_like(state[:, 0])]
    for segment in range(state.shape[1] - 1):
        begin.append(remains[:, segment, -1] * begin[-1] + state[:, segment])
    states = torch.stack(within, dim=2) + remains * torch.stack(begin, dim=1).unsqueeze(2)
    y = torch.einsum("wstdn,wstn->wstd", states, c)
    return y.reshape(windows, -1, channels)[:, :tokens]
