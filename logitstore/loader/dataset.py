"""A store as a map-style PyTorch dataset: the sequences one rank reads in one epoch, in their order."""

# N sequences of the store

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from logitstore.errors import InvalidInput, LogitstoreError
from logitstore.loader.batch import Batch, Layout, Sample, collate_samples
from logitstore.loader.labels import position_labels
from logitstore.loader.order import epoch_order
from logitstore.loader.student import check_tokenizer, check_vocabulary
from logitstore.loader.worker_errors import note_for_transport
from logitstore.store import Store, open_store


class Place(NamedTuple):
    """A sample of a given epoch, whatever epoch the dataset is set to."""

    epoch: int
    number: int


class LogitDataset(Dataset[Sample]):
    """The sequences that one rank reads in one epoch.

    `dataset[i]` is the rank's i-th sequence of the epoch: place i * world_size + rank of an order that depends on
    store, seed and epoch alone. `len(dataset)` is ceil(N / world_size) on every rank, so that all take equally many
    steps: the last places wrap around to the order's beginning, and up to world_size - 1 sequences are read twice.
    (A store with fewer sequences than ranks repeats them as often as it takes.)

    It does the shuffling and the sharding, so a plain DataLoader around it needs neither: `DataLoader(dataset,
    batch_size=8, collate_fn=dataset.collate)`. A trainer that shards by itself wants `rank=0, world_size=1`.

    Args:
        path: of a sealed store, or an open one.
        shuffle: read in an order of `seed` and epoch; otherwise in the store's.
        seed: any whole number.
        rank: which of `world_size` readers this is; together with it, or neither. The default is
            `torch.distributed`'s where that is initialised, else 0 of 1.
        world_size: number of readers.

    Raises:
        InvalidInput: a rank outside range(world_size), or an empty store.
        StoreError: the store cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Store,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.rank, self.world_size = _rank_and_world_size(rank, world_size)
        self.store = open_store(path) if isinstance(path, str | os.PathLike) else path
        if len(self.store) == 0:
            raise InvalidInput(f"store {self.store.path} has no sequences; there is nothing to train on.")
        self.shuffle = shuffle
        self.seed = seed
        # shared with worker processes, which may outlive the epoch they were started in
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch whose order `dataset[i]` follows; at first 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Follow the order of another epoch, in worker processes too; call it between epochs.

        Raises:
            InvalidInput: `epoch` is negative.
        """
        if epoch < 0:
            raise InvalidInput(f"epoch is {epoch}; 0 or more was wanted.")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return -(-len(self.store) // self.world_size)

    def __getitem__(self, index: int | Place) -> Sample:
        """Return the rank's sample at `index` of the epoch; negative indices count from the end.

        Raises:
            IndexError: no such sample.
            StoreError: the sequence is missing or damaged.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | Place]) -> list[Sample]:
        """Return several samples; DataLoader asks for a batch in this way."""
        places = [index if isinstance(index, Place) else Place(self.epoch, index) for index in indices]
        samples: list[Sample] = []
        for epoch, group in groupby(places, key=lambda place: place.epoch):
            ids = self.sequence_ids(epoch, [place.number for place in group])
            samples += [self._read(sequence_id) for sequence_id in ids.tolist()]
        return samples

    def sequence_ids(self, epoch: int, indices: Sequence[int]) -> NDArray[np.int64]:
        """Return which sequence of the store each of the rank's `indices` stands for in `epoch`, int64.

        Raises:
            IndexError: no such sample.
        """
        asked = np.asarray(indices, dtype=np.int64)
        wrong = asked[(asked < -len(self)) | (asked >= len(self))]
        if len(wrong):
            raise IndexError(f"sample {wrong[0]} was asked for; rank {self.rank} of {self.world_size} has {len(self)}")
        places = (asked % len(self) * self.world_size + self.rank) % len(self.store)
        if not self.shuffle:
            return places
        sha256 = self.store.manifest_sha256
        return epoch_order(len(self.store), store_sha256=sha256, seed=self.seed, epoch=epoch).indices(places)

    def _read(self, sequence_id: int) -> Sample:
        try:
            sequence = self.store[sequence_id]
        except LogitstoreError as error:
            if get_worker_info() is not None:
                note_for_transport(error)
            raise
        labels = position_labels(sequence, self.store.manifest.get("eod_id"))
        return Sample(sequence.index, sequence.tokens, labels, sequence.targets)

    def collate(self, samples: Sequence[Sample], *, layout: Layout = "csr") -> Batch:
        """Return samples as one batch, padded on the right; see `collate_samples`."""
        return collate_samples(samples, layout=layout)

    def check_student(self, vocab_size: int, tokenizer: Any = None) -> None:
        """Refuse a student that this store cannot teach.

        Args:
            vocab_size: columns of the student's logits; more than the store's vocabulary are fine.
            tokenizer: the student's tokenizer, a Hugging Face one; where it is left out it is not compared.

        Raises:
            StoreError: kind "alignment-mismatch": the store's token ids do not fit into the student's vocabulary, or
                its tokenizer is not the one the store was built with (or the store does not say which that was).
        """
        check_vocabulary(self.store, vocab_size)
        if tokenizer is not None:
            check_tokenizer(self.store, tokenizer)


def _rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise InvalidInput(f"rank is {rank} and world_size {world_size}; give both, or neither.")
    if rank is None or world_size is None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return 0, 1
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    if not 0 <= rank < world_size:
        raise InvalidInput(f"rank is {rank}; 0 to world_size - 1 = {world_size - 1} was wanted.")
    return rank, world_size
