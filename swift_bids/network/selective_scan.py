"""The selective scan of Mamba-1 (Gu and Dao 2023, arXiv:2312.00752) in plain torch.

    h_t = exp(delta_t A) h_(t-1) + delta_t x_t B_t,   y_t = C_t . h_t,   h_0 = 0

for each channel, with 16 states per channel. The formula is sequential in t. On a CPU, one step for
many windows fills the vectors of the processor, so `selective_scan` goes step by step. On a GPU it
cuts each sequence into segments and scans all of them at the same time; a second scan over the ends
of the segments then yields the state with which each began, and what this state adds to its
outputs. All exponents are negative, so no product overflows, however long the sequence is.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Steps of a segment on a GPU and with gradients: 256 tokens take 16 + 16 steps instead of 256.
SEGMENT = 16
#: Steps whose decays and inputs are computed together on a CPU, and the windows that go through
#: them together; with 16 states of 72 channels, they take 4.7 MB.
_STEPS, _WINDOWS = 16, 64


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
    if x.is_cpu and not torch.is_grad_enabled():
        parts = zip(*(tensor.split(_WINDOWS) for tensor in (x, delta, b, c)))
        return torch.cat([_step_by_step(x, delta, a, b, c) for x, delta, b, c in parts])
    return _in_segments(x, delta, a, b, c)


def _step_by_step(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Scan in order, in place. States come before channels, which fill the vectors."""
    windows, tokens, channels = x.shape
    a = a.T[:, None].contiguous()  # (state, 1, channel)
    delta = delta.transpose(0, 1).contiguous()  # (token, window, channel)
    x = (delta * x.transpose(0, 1)).unsqueeze(1)
    delta = delta.unsqueeze(1)
    # (token, state, window, 1)
    b, c = (tensor.permute(1, 2, 0).unsqueeze(-1).contiguous() for tensor in (b, c))
    y = x.new_empty(tokens, windows, channels)
    # Used again and again: new memory costs more than the arithmetic.
    state = x.new_zeros(len(a), windows, channels)
    decays, states = x.new_empty(2, min(_STEPS, tokens), *state.shape)
    for start in range(0, tokens, _STEPS):
        part = slice(start, start + _STEPS)
        decay, within = (memory[: tokens - start] for memory in (decays, states))
        torch.mul(delta[part], a, out=decay).exp_()
        torch.mul(x[part], b[part], out=within)
        before = state
        for now, factor in zip(within, decay):
            before = now.addcmul_(before, factor)
        state.copy_(before)
        torch.sum(within.mul_(c[part]), dim=1, out=y[part])
    return y.transpose(0, 1)


def _in_segments(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Scan all segments of `SEGMENT` tokens at the same time, then carry their states over."""
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
