"""The network with a head: chunks (B, 1, 96, 96, 96, T) -> outputs (B, output)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift_bids.group.columns import Target
from swift_bids.group.probes.saved import SavedProbe
from swift_bids.network.skeleton import Skeleton


def mean_embedding(network: Skeleton, x: Tensor) -> Tensor:
    """Mean over the tokens of each chunk, (B, feature) float32."""
    return network(x).float().mean(dim=(2, 3, 4, 5))


class Classifier(nn.Module):
    """A network and a linear layer on the mean of its tokens, as in Kim et al. 2023.

    The layer reads standardised features, because those of different participants differ little
    compared with their size. All of it is linear, so the mean of its outputs over chunks is its
    output for their mean embedding: it is a probe like those of the group level.

    Parameters
    ----------
    network
        SwiFT or NeuroSTORM.
    n_outputs
        One for numbers, one for each class.
    centre, scale
        (feature,) by which the features are standardised: the embedding for which all outputs are
        0, and the standard deviations.
    freeze
        One of `swift_bids.finetune.settings.FREEZE`.
    activation_checkpointing
        Whether to compute activations again for the gradients, to save memory.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        network: Skeleton,
        n_outputs: int,
        centre: np.ndarray,
        scale: np.ndarray,
        freeze: str = "none",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        # The centre of the features stands for a bias.
        self.head = nn.Linear(network.n_features, n_outputs, bias=False)
        # All participants have the same prediction at first: nothing of a random head to unlearn.
        nn.init.zeros_(self.head.weight)
        self.register_buffer("centre", torch.from_numpy(centre).float())
        self.register_buffer("scale", torch.from_numpy(scale).float())
        self.is_frozen: bool = freeze == "backbone"
        network.requires_grad_(freeze == "none")
        if freeze == "stages":
            for part in (network.layers[-1], network.pos_embeds[-1]):
                part.requires_grad_(True)
        network.checkpoint_activations(activation_checkpointing)

    def embed(self, x: Tensor) -> Tensor:
        """Mean embeddings of chunks, (B, feature) float32.

        A frozen network gets embeddings, see `swift_bids.finetune.examples.EmbeddedExamples`.
        """
        return x if self.is_frozen else mean_embedding(self.network, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(self.embed(x))

    def outputs(self, embeddings: Tensor) -> Tensor:
        """Outputs for embeddings, (B, output)."""
        return self.head((embeddings - self.centre) / self.scale)

    def train(self, mode: bool = True) -> Classifier:
        """Set training mode, except for a frozen network, which has no dropout."""
        super().train(mode)
        self.network.train(mode and not self.is_frozen)
        return self

    @property
    def trained(self) -> dict[str, Tensor]:
        """Name -> tensor of all that training changes."""
        own = {name: p.data for name, p in self.named_parameters() if p.requires_grad}
        return own | {"centre": self.centre}


@dataclass(frozen=True)
class Task:
    """What the outputs mean, from the training participants alone.

    Attributes
    ----------
    target
        The column.
    mean, std
        Numbers are learned as (number - mean) / std.
    class_weights
        (class,) weights in the loss, by which rare classes count as much as frequent ones.
    """

    target: Target
    mean: float
    std: float
    class_weights: np.ndarray

    @classmethod
    def of(cls, target: Target, rows: np.ndarray) -> Task:
        """The task for these participants."""
        values = target.values[rows]
        if not target.classes:
            return cls(target, float(values.mean()), float(values.std()) or 1.0, np.ones(0))
        counts = np.bincount(values.astype(int), minlength=len(target.classes))
        return cls(target, 0.0, 1.0, len(values) / np.maximum(counts, 1) / len(counts))

    @property
    def n_outputs(self) -> int:
        """One for numbers, one for each class."""
        return max(1, len(self.target.classes))

    def losses(self, outputs: Tensor, participants: np.ndarray) -> Tensor:
        """Loss of each row: cross-entropy for classes, squared error of standardised numbers.

        Parameters
        ----------
        outputs
            (row, output).
        participants
            (row,) number of the participant.
        """
        values = torch.from_numpy(self.target.values[participants]).to(outputs.device)
        outputs = outputs.float()
        if self.target.classes:
            return F.cross_entropy(outputs, values.long(), reduction="none")
        return (outputs[:, 0] - ((values - self.mean) / self.std).float()).square()

    def weights(self, participants: np.ndarray, of_chunks: np.ndarray | None = None) -> np.ndarray:
        """Weight of each row in the loss, (row,), by which all classes count the same.

        Parameters
        ----------
        participants
            (row,) number of the participant.
        of_chunks
            (participant,) by which to multiply it.
        """
        weights = np.ones(len(participants))
        if self.target.classes:
            weights = self.class_weights[self.target.values[participants].astype(int)]
        return weights if of_chunks is None else weights * of_chunks[participants]

    def centre_of(self, embeddings: Tensor, participants: np.ndarray) -> Tensor:
        """The embedding for which all outputs are 0: the mean, or the mean of the classes' means.

        Parameters
        ----------
        embeddings
            (participant, feature).
        participants
            Their numbers.
        """
        if not self.target.classes:
            return embeddings.mean(dim=0)
        values = self.target.values[participants]
        return torch.stack([embeddings[values == v].mean(dim=0) for v in np.unique(values)]).mean(0)

    def as_probe(self, classifier: Classifier, n_participants: int) -> SavedProbe:
        """The head as a probe of the mean embedding, in the units of the target."""

        def values(tensor: Tensor) -> np.ndarray:
            return tensor.detach().cpu().double().numpy()

        return SavedProbe(
            self.target.name,
            self.target.classes,
            n_participants,
            values(classifier.centre),
            values(classifier.scale),
            values(classifier.head.weight) * self.std,
            np.full(self.n_outputs, self.mean),
        )
