"""Loaders with worker processes, and PyTorch's own DataLoader."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from torch.utils.data import DataLoader

from logitstore.errors import StoreError
from logitstore.loader import LogitDataset, make_dataloader
from logitstore.targets import PaddedTargets
from tests.loader.small_stores import assert_same_tensors, ids_of, make_store

LENGTHS = [3, 7, 5, 5, 2, 4, 6, 1, 3]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("workers") / "store", LENGTHS, masked=[(0, 1)])


def assert_same_batches(found, wanted) -> None:
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert_same_tensors(one, other)


@pytest.mark.parametrize(("num_workers", "start_method"), [(2, "fork"), (1, "spawn")])
def test_workers_give_the_batches_of_a_plain_read(store, num_workers, start_method):
    # the store has been read in this process: an open file must not be shared with the workers
    wanted = list(make_dataloader(LogitDataset(store, seed=2), batch_size=2))
    dataset = LogitDataset(store, seed=2)
    loader = make_dataloader(dataset, batch_size=2, num_workers=num_workers, multiprocessing_context=start_method)
    assert isinstance(loader, DataLoader)
    assert_same_batches(loader, wanted)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_plain_dataloader_gives_the_same_batches(store, num_workers):
    dataset = LogitDataset(store, seed=2)
    plain = DataLoader(dataset, batch_size=4, num_workers=num_workers, collate_fn=dataset.collate)
    assert_same_batches(plain, make_dataloader(dataset, batch_size=4))


def test_padded_batches_come_out_of_workers_too(store):
    dataset = LogitDataset(store)
    batches = list(make_dataloader(dataset, batch_size=4, num_workers=1, layout="padded"))
    assert all(isinstance(batch.targets, PaddedTargets) for batch in batches)
    assert_same_batches(batches, make_dataloader(dataset, batch_size=4, layout="padded"))


def plain_dataloader(dataset, **options):
    return DataLoader(dataset, collate_fn=dataset.collate, **options)


@pytest.mark.parametrize(
    ("make", "start_method"), [(plain_dataloader, "fork"), (plain_dataloader, "spawn"), (make_dataloader, "fork")]
)
def test_set_epoch_reaches_persistent_workers(store, make, start_method):
    dataset = LogitDataset(store)
    options = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": start_method}
    loader = make(dataset, batch_size=2, **options)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        assert ids_of(loader) == ids_of(make_dataloader(dataset, batch_size=2))


def test_batches_that_workers_prepared_are_not_counted(store):
    dataset = LogitDataset(store)
    whole = ids_of(make_dataloader(dataset, batch_size=1))
    for taken in (1, 3, len(LENGTHS)):
        loader = make_dataloader(dataset, batch_size=1, num_workers=2, prefetch_factor=4)
        batches = iter(loader)
        for _ in range(taken):
            next(batches)
        state = loader.state_dict()
        assert state["batches"] == taken
        loader.load_state_dict(state)
        assert ids_of(loader) == whole[taken:]


def test_batches_prepared_ahead_keep_the_epoch_they_were_begun_in(store):
    dataset = LogitDataset(store)
    loader = make_dataloader(dataset, batch_size=1, num_workers=1, prefetch_factor=1)
    whole = ids_of(make_dataloader(dataset, batch_size=1))
    batches = iter(loader)
    found = [next(batches).sequence_ids.tolist()]
    loader.set_epoch(1)
    assert found + ids_of(batches) == whole


def error_of(function, *arguments) -> StoreError:
    """The error a call raises, without the traceback that would keep worker processes alive (pytest.raises has one)."""
    try:
        function(*arguments)
    except StoreError as error:
        return error.with_traceback(None)
    pytest.fail("no StoreError was raised")


@pytest.fixture
def damaged(tmp_path):
    """A store whose sequence 2 cannot be read, and the error that reading it raises."""
    store = make_store(tmp_path / "damaged", [6] * 4, sequences_per_shard=1)
    shard = store.path / "sequences" / "c" / "2"
    content = bytearray(shard.read_bytes())
    content[10] ^= 255
    shard.write_bytes(content)
    return store, error_of(store.__getitem__, 2)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_sequence_reaches_the_user_as_it_was_raised(damaged, num_workers):
    store, wanted = damaged
    loader = make_dataloader(LogitDataset(store, shuffle=False), batch_size=1, num_workers=num_workers)
    batches = iter(loader)
    assert ids_of([next(batches), next(batches)]) == [[0], [1]]
    error = error_of(next, batches)
    assert (type(error), str(error), error.kind) == (StoreError, str(wanted), wanted.kind)
    assert wanted.kind != StoreError.default_kind
    assert loader.state_dict()["batches"] == 2


def test_workers_end_with_the_iteration_that_failed(damaged):
    store, _ = damaged
    error_of(list, make_dataloader(LogitDataset(store, shuffle=False), batch_size=1, num_workers=1))
    assert multiprocessing.active_children() == []


def test_a_damaged_sequence_reaches_a_plain_dataloader_as_store_error(damaged):
    store, wanted = damaged
    dataset = LogitDataset(store, shuffle=False)
    error = error_of(list, DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=dataset.collate))
    assert str(wanted) in str(error)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_pinned_batches_move_to_the_gpu(store):
    dataset = LogitDataset(store)
    for batch in make_dataloader(dataset, batch_size=4, num_workers=1, pin_memory=True):
        assert batch.tokens.is_pinned()
        assert batch.targets.ids.is_pinned()
        moved = batch.to("cuda", non_blocking=True)
        assert torch.equal(moved.targets.weights.cpu(), batch.targets.weights)
