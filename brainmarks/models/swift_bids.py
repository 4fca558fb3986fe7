"""Brainmarks plug-in: the networks of swift_bids, for https://github.com/MedARC-AI/brainmarks.

Brainmarks imports every module in its namespace package `brainmarks.models` and offers the models
that they register: here `swift_bids_contrastive`, `swift_bids_hcp_sex` and
`swift_bids_neurostorm_mae`.
"""

from functools import partial

from brainmarks.models.base import Embeddings
from brainmarks.models.registry import register_model

from swift_bids.base.backbones import BACKBONES
from swift_bids.platforms.brainmarks import Encoder, make_model


class Wrapper(Encoder):
    """The encoder in the form that Brainmarks expects."""

    def forward(self, batch):
        return Embeddings(cls_embeds=None, reg_embeds=None, patch_embeds=self.tokens(batch))


for variant in BACKBONES:
    register_model(f"swift_bids_{variant.replace('-', '_')}")(partial(make_model, variant, Wrapper))
