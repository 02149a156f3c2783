from __future__ import annotations

import pickle

import pytest
import torch

from logitstore.errors import InvalidInput, StoreError
from logitstore.loader import LogitDataset
from logitstore.loader.dataset import Place
from logitstore.samplers import TopK
from logitstore.store import create_store
from tests.loader.small_stores import VOCAB_SIZE, assert_same_tensors, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("dataset") / "store", [4, 9, 1, 6, 6, 2, 7])


def ids_in(dataset) -> list[int]:
    return [sample.sequence_id for sample in dataset]


def test_samples_are_the_stored_sequences(store):
    for sample in LogitDataset(store.path, seed=3):
        sequence = store[sample.sequence_id]
        assert torch.equal(sample.tokens, sequence.tokens)
        assert sample.tokens.dtype == torch.int32
        assert sample.labels.dtype == torch.int64
        assert_same_tensors(sample.targets, sequence.targets)


def test_a_path_and_an_open_store_give_the_same_samples(store):
    assert ids_in(LogitDataset(str(store.path))) == ids_in(LogitDataset(store.path)) == ids_in(LogitDataset(store))


def test_an_epoch_reads_every_sequence_once(store):
    dataset = LogitDataset(store)
    for epoch in range(5):
        dataset.set_epoch(epoch)
        assert sorted(ids_in(dataset)) == list(range(7))


def test_epochs_and_seeds_have_their_own_orders(store):
    orders = set()
    for seed in range(3):
        dataset = LogitDataset(store, seed=seed)
        for epoch in range(3):
            dataset.set_epoch(epoch)
            orders.add(tuple(ids_in(dataset)))
    assert len(orders) == 9


def test_without_shuffling_the_order_is_the_stores_in_every_epoch(store):
    dataset = LogitDataset(store, shuffle=False)
    dataset.set_epoch(4)
    assert ids_in(dataset) == list(range(7))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_together_read_the_order_in_turns_and_wrap_around(store, world_size, shuffle):
    order = ids_in(LogitDataset(store, shuffle=shuffle))
    ranks = [LogitDataset(store, shuffle=shuffle, rank=rank, world_size=world_size) for rank in range(world_size)]
    steps = -(-7 // world_size)
    assert [len(rank) for rank in ranks] == [steps] * world_size
    in_turns = [rank[step].sequence_id for step in range(steps) for rank in ranks]
    assert in_turns == (order * 2)[: steps * world_size]


def test_a_place_names_its_epoch_whatever_epoch_is_set(store):
    dataset = LogitDataset(store)
    dataset.set_epoch(3)
    wanted = ids_in(dataset)
    dataset.set_epoch(0)
    places = [Place(3, 0), 0, Place(3, 6), Place(3, 2)]
    found = [sample.sequence_id for sample in dataset.__getitems__(places)]
    assert found == [wanted[0], dataset[0].sequence_id, wanted[6], wanted[2]]


def test_indices_behave_like_those_of_a_list(store):
    dataset = LogitDataset(store)
    assert dataset[-1].sequence_id == dataset[6].sequence_id
    for index in (7, -8):
        with pytest.raises(IndexError, match=rf"sample {index} was asked for; rank 0 of 1 has 7"):
            dataset[index]


def test_a_pickled_dataset_reads_the_same_samples(store):
    dataset = LogitDataset(store, seed=2, rank=1, world_size=2)
    dataset.set_epoch(6)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.epoch == 6
    assert ids_in(copy) == ids_in(dataset)


def test_rank_and_world_size_come_from_torch_distributed_where_it_runs(store, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        assert (LogitDataset(store).rank, LogitDataset(store).world_size) == (0, 1)
        chosen = LogitDataset(store, rank=2, world_size=3)
        assert (chosen.rank, chosen.world_size) == (2, 3)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rank": 2, "world_size": 2}, r"rank is 2; 0 to world_size - 1 = 1"),
        ({"rank": -1, "world_size": 2}, r"rank is -1"),
        ({"rank": 0, "world_size": 0}, r"rank is 0; 0 to world_size - 1 = -1"),
        ({"rank": 1}, r"rank is 1 and world_size None; give both"),
        ({"world_size": 4}, r"rank is None and world_size 4; give both"),
    ],
)
def test_ranks_that_do_not_fit_are_refused(store, options, text):
    with pytest.raises(InvalidInput, match=text):
        LogitDataset(store, **options)


def test_a_negative_epoch_is_refused(store):
    with pytest.raises(InvalidInput, match="epoch is -1"):
        LogitDataset(store).set_epoch(-1)


def test_a_store_without_sequences_is_refused():
    class EmptyStore:
        path = "empty"

        def __len__(self):
            return 0

    with pytest.raises(InvalidInput, match="empty has no sequences"):
        LogitDataset(EmptyStore())


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError) as caught:
        LogitDataset(tmp_path)
    assert caught.value.kind == "not-a-store"


def test_an_unfinished_store_is_refused(tmp_path):
    create_store(tmp_path / "unfinished", vocab_size=9, sampler=TopK(k=2))
    with pytest.raises(StoreError) as caught:
        LogitDataset(tmp_path / "unfinished")
    assert caught.value.kind == "not-sealed"


def test_students_with_the_stores_vocabulary_or_a_larger_one_pass(store):
    LogitDataset(store).check_student(VOCAB_SIZE)
    LogitDataset(store).check_student(VOCAB_SIZE + 24)


def test_a_student_without_room_for_the_largest_id_is_refused(store):
    with pytest.raises(StoreError, match=r"39 columns.*ids up to 39: 40 or more") as caught:
        LogitDataset(store).check_student(VOCAB_SIZE - 1)
    assert caught.value.kind == "alignment-mismatch"
    assert caught.value.exit_code == 2
