"""A DataLoader over a LogitDataset that can stop after any batch and go on from there."""

# N samples of a rank's epoch

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Sampler

from logitstore.errors import InvalidInput, LogitstoreError
from logitstore.loader.batch import Batch, Layout, check_layout
from logitstore.loader.dataset import LogitDataset, Place
from logitstore.loader.state import LoaderState
from logitstore.loader.worker_errors import raise_restored

_OWN_OPTIONS = {
    "sampler": "the dataset has the order of its samples",
    "batch_sampler": "the dataset has the order of its samples",
    "shuffle": "give it to LogitDataset",
    "collate_fn": "choose a layout, or use a plain DataLoader",
}


class EpochSampler(Sampler[Place]):
    """The places of the dataset's current epoch in ascending order, from `first_sample` on.

    The epoch is read when an iteration starts and travels with every place, so that batches which worker processes
    prepare ahead of time are not affected by `set_epoch`.
    """

    def __init__(self, dataset: LogitDataset) -> None:
        self._dataset = dataset
        self.first_sample = 0

    def __len__(self) -> int:
        """N, also when an iteration is to start later."""
        return len(self._dataset)

    def __iter__(self) -> Iterator[Place]:
        epoch, first = self._dataset.epoch, self.first_sample
        return (Place(epoch, index) for index in range(first, len(self._dataset)))


@dataclass
class _Progress:
    """How far an iteration over an epoch has come."""

    epoch: int
    batches: int


class LogitDataLoader(DataLoader[Any]):
    """A DataLoader that yields `Batch`es and remembers how many it has handed out; see `make_dataloader`."""

    dataset: LogitDataset

    def __init__(
        self,
        dataset: LogitDataset,
        batch_size: int = 8,
        num_workers: int = 0,
        *,
        layout: Layout = "csr",
        drop_last: bool = False,
        **dataloader_options: Any,
    ) -> None:
        if batch_size < 1:
            raise InvalidInput(f"batch_size is {batch_size}; 1 or more was wanted.")
        check_layout(layout)
        for name in dataloader_options.keys() & _OWN_OPTIONS.keys():
            raise InvalidInput(f"{name} cannot be chosen here: {_OWN_OPTIONS[name]}.")
        super().__init__(
            dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            sampler=EpochSampler(dataset),
            collate_fn=partial(dataset.collate, layout=layout),
            drop_last=drop_last,
            **dataloader_options,
        )
        self._progress = _Progress(dataset.epoch, 0)
        self._resumed = False

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        first = self._current().batches if self._resumed else 0
        self._resumed = False
        self._progress = _Progress(self.dataset.epoch, first)
        assert isinstance(self.sampler, EpochSampler)
        assert self.batch_size is not None
        self.sampler.first_sample = first * self.batch_size
        return self._counted(super().__iter__(), self._progress)

    @staticmethod
    def _counted(batches: Iterator[Batch], progress: _Progress) -> Iterator[Batch]:
        try:
            for batch in batches:
                progress.batches += 1
                yield batch
        except LogitstoreError as error:
            raise_restored(error)

    def set_epoch(self, epoch: int) -> None:
        """Follow the order of `epoch` from the next `iter` on; an iteration that is running stays as it is.

        Going to another epoch starts it at its first batch. Naming the epoch that `load_state_dict` restored changes
        nothing, so that the usual loop over epochs can be resumed:

            loader.load_state_dict(state)
            for epoch in range(state["epoch"], num_epochs):
                loader.set_epoch(epoch)
                for batch in loader: ...

        Raises:
            InvalidInput: `epoch` is negative.
        """
        self.dataset.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the current iteration is, small and ready for JSON.

        It counts the batches handed out, not those that worker processes have prepared. It is the same on every rank:
        saving one rank's is enough. After an epoch's last batch it says so: an iteration resumed from it is empty,
        and the next begins an epoch.
        """
        progress = self._current()
        return self._state(progress.epoch, progress.batches).to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken: the next `iter` begins with the batch that follows.

        Raises:
            InvalidInput: the state is of another store, order or way of batching, or of a newer version; the message
                names each field that differs.
        """
        loaded = LoaderState.from_dict(state)
        loaded.check_same_run(self._state(0, 0))
        if loaded.batches > len(self):
            raise InvalidInput(f"the state is after batch {loaded.batches}; an epoch here has {len(self)}.")
        self.dataset.set_epoch(loaded.epoch)
        self._progress = _Progress(loaded.epoch, loaded.batches)
        self._resumed = True

    def _current(self) -> _Progress:
        """The progress in the dataset's epoch: none, where that was set after the last iteration began."""
        epoch = self.dataset.epoch
        return self._progress if self._progress.epoch == epoch else _Progress(epoch, 0)

    def _state(self, epoch: int, batches: int) -> LoaderState:
        assert self.batch_size is not None
        dataset = self.dataset
        return LoaderState(
            store=dataset.store.manifest_sha256,
            shuffle=dataset.shuffle,
            seed=dataset.seed,
            world_size=dataset.world_size,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
            epoch=epoch,
            batches=batches,
        )


def make_dataloader(
    dataset: LogitDataset,
    batch_size: int = 8,
    num_workers: int = 0,
    layout: Layout = "csr",
    drop_last: bool = False,
    **dataloader_options: Any,
) -> LogitDataLoader:
    """Return a DataLoader over the dataset whose iterations can be resumed after any batch.

    Iterating again repeats the same epoch, as with DistributedSampler: call `set_epoch` before each.

    Args:
        dataset: does the shuffling and the sharding.
        batch_size: sequences in a batch, on this rank.
        num_workers: processes that read ahead; 0 reads in this one.
        layout: form of `batch.targets`: "csr" (SparseTargets) or "padded" (PaddedTargets).
        drop_last: leave out the epoch's last batch where it would be a short one.
        dataloader_options: further arguments of `torch.utils.data.DataLoader`, such as `pin_memory`,
            `persistent_workers`, `prefetch_factor` or `multiprocessing_context`.

    Raises:
        InvalidInput: an argument out of range, or an option that the dataset decides.
    """
    return LogitDataLoader(dataset, batch_size, num_workers, layout=layout, drop_last=drop_last, **dataloader_options)
