from __future__ import annotations

import functools
import json
import operator

import pytest

from logitstore.errors import InvalidInput
from logitstore.loader import LogitDataset, make_dataloader
from tests.loader.small_stores import assert_same_tensors, ids_of, make_store

NUM_SEQUENCES, BATCH_SIZE = 11, 3
NUM_BATCHES = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    lengths = [3 + index % 4 for index in range(NUM_SEQUENCES)]
    return make_store(tmp_path_factory.mktemp("resume") / "store", lengths)


def loader_of(store, *, batch_size=BATCH_SIZE, num_workers=0, drop_last=False, **options):
    dataset = LogitDataset(store.path, **options)
    return make_dataloader(dataset, batch_size, num_workers, drop_last=drop_last)


def take(loader, count) -> list:
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


def test_an_epoch_is_the_datasets_samples_in_batches(store):
    loader = loader_of(store, seed=4)
    loader.set_epoch(2)
    batches = list(loader)
    wanted = [sample.sequence_id for sample in loader.dataset]
    assert len(loader) == len(batches) == NUM_BATCHES
    assert functools.reduce(operator.iadd, ids_of(batches), []) == wanted
    assert [len(batch) for batch in batches] == [3, 3, 3, 2]


def test_drop_last_leaves_out_the_short_batch(store):
    loader = loader_of(store, drop_last=True)
    assert [len(batch) for batch in loader] == [3, 3, 3]


@pytest.mark.parametrize("taken", range(NUM_BATCHES + 1))
def test_resuming_after_any_batch_continues_as_if_uninterrupted(store, taken):
    uninterrupted = loader_of(store, seed=1)
    uninterrupted.set_epoch(5)
    wanted = list(uninterrupted)

    first = loader_of(store, seed=1)
    first.set_epoch(5)
    take(first, taken)
    state = json.loads(json.dumps(first.state_dict()))
    assert (state["epoch"], state["batches"]) == (5, taken)

    second = loader_of(store, seed=1)
    second.load_state_dict(state)
    assert second.state_dict() == state
    rest = list(second)
    assert len(rest) == NUM_BATCHES - taken
    for found, expected in zip(rest, wanted[taken:], strict=True):
        assert_same_tensors(found, expected)
    assert second.state_dict() == uninterrupted.state_dict()


def test_the_usual_loop_over_epochs_resumes_where_it_stopped(store):
    def epochs(loader, first):
        for epoch in range(first, 3):
            loader.set_epoch(epoch)
            for batch in loader:
                yield batch.sequence_ids.tolist(), loader.state_dict()

    steps = list(epochs(loader_of(store), 0))
    assert len(steps) == 3 * NUM_BATCHES
    for done, (_, state) in enumerate(steps, start=1):
        loader = loader_of(store)
        loader.load_state_dict(state)
        rest = list(epochs(loader, state["epoch"]))
        assert rest == steps[done:]


def test_iterating_again_repeats_the_epoch_from_its_start(store):
    loader = loader_of(store)
    whole = ids_of(loader)
    assert ids_of(take(loader, 2)) == whole[:2]
    assert loader.state_dict()["batches"] == 2
    assert ids_of(loader) == whole


def test_only_the_first_iteration_after_loading_starts_later(store):
    loader = loader_of(store)
    whole = ids_of(loader)
    take(loader, 1)
    loader.load_state_dict(loader.state_dict())
    assert ids_of(loader) == whole[1:]
    assert ids_of(loader) == whole


def test_another_epoch_starts_at_its_first_batch(store):
    loader, other = loader_of(store), loader_of(store)
    take(loader, 2)
    loader.load_state_dict(loader.state_dict())
    for each in (loader, other):
        each.set_epoch(1)
    assert loader.state_dict()["batches"] == 0
    assert ids_of(loader) == ids_of(other)


def test_setting_the_epoch_leaves_a_running_iteration_alone(store):
    loader = loader_of(store)
    whole = ids_of(loader)
    batches = iter(loader)
    found = [next(batches).sequence_ids.tolist()]
    loader.set_epoch(1)
    found += ids_of(batches)
    assert found == whole
    assert ids_of(loader) != whole


def test_a_rank_resumes_from_another_ranks_state(store):
    first, second = (loader_of(store, rank=rank, world_size=2) for rank in range(2))
    whole = ids_of(second)
    take(first, 1)
    second.load_state_dict(first.state_dict())
    assert ids_of(second) == whole[1:]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"shuffle": False}, "shuffle was True and is False"),
        ({"batch_size": 2}, "batch_size was 3 and is 2"),
        ({"drop_last": True}, "drop_last was False and is True"),
        ({"rank": 0, "world_size": 2}, "world_size was 1 and is 2"),
        ({"seed": 1, "batch_size": 2}, "seed was 0 and is 1; batch_size was 3 and is 2"),
    ],
)
def test_the_state_of_another_run_is_refused_naming_each_field(store, options, text):
    state = loader_of(store).state_dict()
    with pytest.raises(InvalidInput, match=text):
        loader_of(store, **options).load_state_dict(state)


def test_the_state_of_another_store_is_refused(store, tmp_path):
    other = make_store(tmp_path / "other", [3] * NUM_SEQUENCES)
    with pytest.raises(InvalidInput, match=f"store was '{store.manifest_sha256}' and is"):
        loader_of(other).load_state_dict(loader_of(store).state_dict())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": 2}, "version 2; this logitstore reads up to 1"),
        ({"version": None}, "version None"),
        ({"version": 0}, "version 0"),
        ({"batches": 5}, "after batch 5; an epoch here has 4"),
        ({"batches": -1}, "batches of the loader state is -1"),
        ({"epoch": -1}, "epoch of the loader state is -1"),
        ({"epoch": "1"}, "epoch of the loader state is '1'"),
        ({"seed": True}, "seed of the loader state is True"),
        ({"speed": 1}, "missing or unknown: speed"),
    ],
)
def test_states_that_cannot_be_are_refused(store, change, text):
    loader = loader_of(store)
    with pytest.raises(InvalidInput, match=text):
        loader.load_state_dict(loader.state_dict() | change)


def test_a_state_without_a_field_is_refused(store):
    loader = loader_of(store)
    state = loader.state_dict()
    del state["seed"]
    with pytest.raises(InvalidInput, match="missing or unknown: seed"):
        loader.load_state_dict(state)


def test_a_refused_state_changes_nothing(store):
    loader = loader_of(store)
    take(loader, 1)
    before = loader.state_dict()
    with pytest.raises(InvalidInput):
        loader.load_state_dict(before | {"epoch": 3, "batches": 99})
    assert loader.state_dict() == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size is 0; 1 or more"),
        ({"layout": "coo"}, "layout is 'coo'"),
        ({"shuffle": True}, "shuffle cannot be chosen here: give it to LogitDataset"),
        ({"sampler": [0]}, "sampler cannot be chosen here"),
        ({"batch_sampler": [[0]]}, "batch_sampler cannot be chosen here"),
        ({"collate_fn": list}, "collate_fn cannot be chosen here"),
    ],
)
def test_options_that_do_not_fit_are_refused(store, options, text):
    with pytest.raises(InvalidInput, match=text):
        make_dataloader(LogitDataset(store), **options)
