"""Multi-head self-attention within the pieces of windows, the mixer of SwiFT's blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift_bids.network.fused_linear import is_plain_inference, linear


class Attention(nn.Module):
    """Multi-head self-attention within each piece, (piece, token, C) -> the same shape.

    The block applies the projection, `proj`, when it adds the residual.
    """

    #: Tokens per pass during inference. Together with their queries, keys, values and hidden layer
    #: they take a few MB, which stay in a core's cache.
    tokens_per_pass = 2048

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, attn_drop: float, drop: float):
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        pieces, tokens, dim = x.shape
        qkv = linear(x, self.qkv).view(pieces, tokens, 3, self.num_heads, dim // self.num_heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, piece, head, token, C / heads)
        if x.is_cpu and is_plain_inference(self):
            return _attend_cpu(*qkv.flatten(1, 2)).view(pieces, dim, tokens).transpose(1, 2)
        head = dim // self.num_heads
        # Fused GPU kernels need multiples of 8; padding with zeros does not change the result.
        q, k, v = F.pad(qkv, (0, -head % 8))
        x = F.scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=self.attn_drop if self.training else 0.0,
            scale=head**-0.5,
        )
        return x[..., :head].transpose(1, 2).flatten(2)


def _attend_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of many small pieces: (piece x head, token, D) -> (piece x head, D, token).

    With heads of 12 features, three matrix products over all pieces together are faster than
    torch's fused kernel, which handles the pieces one by one (docs/performance.md).
    """
    scores = q.new_empty(len(q), q.shape[1], k.shape[1])
    scale = q.shape[2] ** -0.5
    torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=scale, out=scores)
    torch.softmax(scores, dim=-1, out=scores)
    return torch.bmm(v.transpose(1, 2), scores.transpose(1, 2))
