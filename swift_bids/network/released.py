"""The network of Kim et al. 2023, of which both variants were released."""

from __future__ import annotations

from typing import Any

#: Constructor arguments of both released variants (`_ilex.constructor_kwargs` of their bundles).
RELEASED_CONFIG: dict[str, Any] = {
    "img_size": (96, 96, 96, 20),
    "in_chans": 1,
    "embed_dim": 36,
    "window_size": (4, 4, 4, 4),
    "first_window_size": (4, 4, 4, 4),
    "patch_size": (6, 6, 6, 1),
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "c_multiplier": 2,
    "last_layer_full_MSA": True,
}
