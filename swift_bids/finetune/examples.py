"""Kept runs -> batches of chunks for training, each with the number of its participant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from swift_bids.group.kept_runs import KeptRun
from swift_bids.steps.embed import ModelInput, use_device

#: Number of a run, and number of one of its chunks.
Chunk = tuple[int, int]


def in_parts(chunks: Sequence[Chunk], size: int) -> list[Sequence[Chunk]]:
    """Divide chunks into parts of this size; the last one may be smaller."""
    return [chunks[start : start + size] for start in range(0, len(chunks), size)]


class Examples:
    """The chunks of all runs.

    Parameters
    ----------
    runs
        Runs of all participants.
    participants
        `sub-XX` of the participants, in the order of their numbers.
    device
        Device of the network.

    Attributes
    ----------
    participant_of
        (run,) number of the participant.
    chunk_weights
        (participant,) weight of a chunk in the loss, by which all participants count the same; its
        mean over chunks is 1.
    """

    def __init__(self, runs: Sequence[KeptRun], participants: Sequence[str], device: str) -> None:
        numbers = {label: number for number, label in enumerate(participants)}
        runs = [run for run in runs if run.participant in numbers]
        self.participant_of = np.array([numbers[run.participant] for run in runs])
        self._runs = [run.chunks(run.starts) for run in runs]
        n_chunks = np.bincount(self.participant_of, [len(run.starts) for run in runs])
        self.chunk_weights = n_chunks.mean() / n_chunks
        self._n_volumes = runs[0].chunk_volumes
        self._device = torch.device(device)
        self._input: ModelInput | None = None

    def chunks_of(self, participants: np.ndarray) -> list[Chunk]:
        """All chunks of these participants, run after run."""
        return [
            (number, chunk)
            for number in np.flatnonzero(np.isin(self.participant_of, participants)).tolist()
            for chunk in range(len(self._runs[number].starts))
        ]

    def batches(self, parts: Sequence[Sequence[Chunk]]) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield the chunks of each part, (B, 1, 96, 96, 96, T), and their participants, (B,).

        A thread reads the next part meanwhile. Each part overwrites the one before.
        """
        largest = max(map(len, parts))
        if self._input is None or self._input.batch_size < largest:
            self._input = ModelInput(largest, self._device, self._n_volumes)
        with ThreadPoolExecutor(1, initializer=use_device, initargs=(self._device,)) as reader:
            ahead = reader.submit(self._read, parts[0])
            for number, part in enumerate(parts):
                rows = ahead.result()
                if number + 1 < len(parts):
                    ahead = reader.submit(self._read, parts[number + 1])
                runs = [self._runs[run] for run, _ in part]
                yield self._input.fill(runs, rows), self.owners(part)

    def owners(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Numbers of the participants of some chunks, (chunk,)."""
        return self.participant_of[[run for run, _ in chunks]]

    def _read(self, part: Sequence[Chunk]) -> list[Tensor]:
        pinned = self._device.type == "cuda"
        return [self._runs[run].read_rows(chunk, pinned) for run, chunk in part]


class EmbeddedExamples(Examples):
    """The same chunks, whose embeddings a frozen network has made once for all epochs and folds.

    Parameters
    ----------
    examples
        The chunks.
    embed
        Turns chunks (B, 1, 96, 96, 96, T) into embeddings (B, feature).
    batch_size
        Chunks that are embedded together.
    """

    def __init__(
        self, examples: Examples, embed: Callable[[Tensor], Tensor], batch_size: int
    ) -> None:
        self.participant_of, self.chunk_weights = examples.participant_of, examples.chunk_weights
        self._runs = examples._runs
        chunks = self.chunks_of(np.arange(len(self.chunk_weights)))
        parts = in_parts(chunks, batch_size)
        with torch.no_grad():
            embedded = torch.cat([embed(volumes) for volumes, _ in examples.batches(parts)])
        self._embedded = dict(zip(chunks, embedded))

    def batches(self, parts: Sequence[Sequence[Chunk]]) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield the embeddings of each part, (B, feature), and their participants, (B,)."""
        for part in parts:
            yield torch.stack([self._embedded[chunk] for chunk in part]), self.owners(part)
