"""Whole stores in a bucket: what is built, read, thinned, verified and resumed there is what it is in a folder."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import logitstore
from logitstore.build.join import join_build
from logitstore.build.thin import thin_store
from logitstore.errors import InvalidInput, StoreError
from logitstore.loader import LogitDataset, make_dataloader
from logitstore.store import create_store, open_store, store_statistics, verify_store
from tests.s3.s3_builds import StopAt
from tests.support.small_builds import build, fingerprint
from tests.support.stores import make_store, random_targets
from tests.support.toy_teachers import toy_teacher
from tests.torture.record import record, size


def test_a_build_in_a_bucket_has_the_bytes_of_one_in_a_folder(built, bucket, undisturbed):
    assert fingerprint(built) == fingerprint(undisturbed)
    local = {path.relative_to(undisturbed).as_posix() for path in undisturbed.rglob("*") if path.is_file()}
    assert set(bucket.names(built)) == local
    for name in local:
        if name.startswith("sequences/c/"):
            assert bucket.read(built, name) == (undisturbed / name).read_bytes()
    assert verify_store(built) == []
    here, there = store_statistics(undisturbed), store_statistics(built)
    assert here == there


def test_a_finished_build_is_left_alone_and_another_one_refused(built, data, bucket):
    before = bucket.contents(built)
    build(built, data)
    with pytest.raises(StoreError) as caught:
        build(built, data, seed=1)
    assert caught.value.kind == "settings-differ"
    with pytest.raises(StoreError) as caught:
        build(built, data, resume=False)
    assert caught.value.kind == "exists"
    assert bucket.contents(built) == before


def test_a_place_with_other_objects_is_refused(place, bucket, data):
    bucket.write(place, "holiday.jpg", b"x")
    for resume in (True, False):
        with pytest.raises(StoreError) as caught:
            build(place, data, resume=resume)
        assert caught.value.kind == "exists"
    assert bucket.names(place) == ["holiday.jpg"]


def test_files_of_another_attempt_are_not_overwritten(place, bucket, data):
    bucket.write(place, "plan.parquet", b"of somebody else")
    with pytest.raises(StoreError, match=r"plan\.parquet is there already") as caught:
        build(place, data)
    assert caught.value.kind == "exists"
    assert bucket.read(place, "plan.parquet") == b"of somebody else"
    assert "manifest.json" not in bucket.names(place)


def stages_of_a_build(place, data, monkeypatch, after):
    """Return the numbers of the requests to stop at: all, or the first of each kind that changes anything; of these
    every other one, as to stop after one is to stop before the next."""
    with monkeypatch.context() as patched:
        made = StopAt(patched, 0, after=False).made
        build(f"{place}/all", data)
    firsts = {kind: nth for nth, kind in reversed([*enumerate(made, start=1)]) if kind[0] in ("create", "remove")}
    assert {("create", "plan.parquet"), ("create", "commits"), ("create", "sealed.json")} < firsts.keys()
    return size(full=range(1, len(made) + 1), small=sorted(firsts.values())[after::2])


@pytest.mark.parametrize("after", [False, True])
def test_a_build_stopped_at_any_stage_resumes_to_the_same_bytes(place, data, undisturbed, monkeypatch, bucket, after):
    wanted, stages = fingerprint(undisturbed), stages_of_a_build(place, data, monkeypatch, after)
    for nth in stages:
        here = f"{place}/{nth}"
        with monkeypatch.context() as patched:
            stop = StopAt(patched, nth, after=after)
            with pytest.raises(KeyboardInterrupt):
                build(here, data)
        if "sealed.json" not in bucket.names(here):
            with pytest.raises(StoreError, match=r"unfinished|no store"):
                open_store(here)
        build(here, data)
        assert fingerprint(here) == wanted, f"request {nth}: {stop.made[-1]}"
    when = "after" if after else "before"
    record(f"S3: stop {when} the N-th request", f"all {len(stages)}", "all resumed to the same bytes")


def join_in_a_process(place):
    torch.set_num_threads(1)
    join_build(place, teacher=toy_teacher(), quiet=True)


def test_several_processes_of_a_build_share_a_bucket(place, data, undisturbed, monkeypatch):
    with monkeypatch.context() as patched:
        StopAt(patched, 40, after=True)
        with pytest.raises(KeyboardInterrupt):
            build(place, data)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=join_in_a_process, args=(place,), daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert fingerprint(place) == fingerprint(undisturbed)


@pytest.mark.parametrize(("num_workers", "method"), [(0, None), (2, "fork"), (1, "spawn")])
def test_loaders_read_from_a_bucket(built, undisturbed, num_workers, method):
    wanted = list(make_dataloader(LogitDataset(undisturbed, seed=1), batch_size=4))
    dataset = LogitDataset(built, seed=1)
    dataset[0]  # this process has made requests before the workers begin
    of_workers = {"multiprocessing_context": method, "timeout": 60} if num_workers else {}
    options = {"num_workers": num_workers} | of_workers
    loaders = [make_dataloader(dataset, batch_size=4, **options)]
    if method != "spawn":  # which takes seconds each
        loaders.append(DataLoader(dataset, batch_size=4, collate_fn=dataset.collate, **options))
    for loader in loaders:
        batches = list(loader)
        assert len(batches) == len(wanted)
        for one, other in zip(batches, wanted, strict=True):
            assert torch.equal(one.tokens, other.tokens)
            assert torch.equal(one.targets.weights, other.targets.weights)
            assert torch.equal(one.sequence_ids, other.sequence_ids)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shard_that_is_gone_reaches_the_user_of_a_loader(built, bucket, num_workers):
    bucket.delete(built, "sequences/c/1")
    loader = make_dataloader(LogitDataset(built, shuffle=False), batch_size=4, num_workers=num_workers)
    batches = iter(loader)
    next(batches)
    try:  # pytest.raises would keep the traceback, and that the worker
        next(batches)
        pytest.fail("no error")
    except StoreError as error:
        found = error.kind, str(error)
    assert found[0] == "missing-shard"
    assert f"{built}/sequences/c/1" in found[1]


def kinds_of_reading(place, indexes):
    """Return the kind of error that each sequence raises."""
    kinds = []
    for index in indexes:
        try:
            open_store(place)[index]
            kinds.append(None)
        except StoreError as error:
            kinds.append(error.kind)
    return kinds


def test_missing_truncated_swapped_and_altered_objects_raise(built, bucket):
    whole = bucket.contents(built)
    first, second = whole["sequences/c/0"], whole["sequences/c/1"]
    bucket.write(built, "sequences/c/0", second)
    bucket.write(built, "sequences/c/1", first)
    assert kinds_of_reading(built, range(9)) == ["checksum-mismatch"] * 8 + [None]
    assert {finding.kind for finding in verify_store(built)} == {"checksum-mismatch"}
    bucket.write(built, "sequences/c/1", second)
    bucket.write(built, "sequences/c/0", first[:-1])
    assert set(kinds_of_reading(built, range(4))) == {"checksum-mismatch"}
    bucket.write(built, "sequences/c/0", first[:30])
    assert set(kinds_of_reading(built, range(4))) == {"truncated"}
    bucket.write(built, "sequences/c/0", b"")
    assert set(kinds_of_reading(built, range(4))) == {"truncated"}
    bucket.delete(built, "sequences/c/0")
    assert kinds_of_reading(built, range(5)) == ["missing-shard"] * 4 + [None]
    assert "missing-file" in {finding.kind for finding in verify_store(built)}
    bucket.write(built, "sequences/c/0", first)
    assert verify_store(built) == []


@pytest.mark.parametrize("name", ["manifest.json", "sealed.json", "index.parquet", "frequencies.bin"])
def test_damage_to_the_records_raises(built, bucket, name):
    content = bucket.read(built, name)
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    for harm in (bytes(damaged), content[:-3], b"", None):
        bucket.delete(built, name) if harm is None else bucket.write(built, name, harm)
        with pytest.raises(StoreError):
            open_store(built)[0]


def test_a_shard_cut_short_while_it_is_open_raises(built, bucket):
    store = open_store(built)
    store[0]
    bucket.write(built, "sequences/c/0", bucket.read(built, "sequences/c/0")[:100])
    with pytest.raises(StoreError) as caught:
        store[3]
    assert caught.value.kind == "truncated"


def test_a_store_is_thinned_from_and_into_a_bucket(built, place, undisturbed, tmp_path, monkeypatch):
    thin_store(undisturbed, tmp_path / "thin", draws=8, quiet=True)
    out = f"{place}-thin"
    with monkeypatch.context() as patched:
        StopAt(patched, 60, after=True)
        with pytest.raises(KeyboardInterrupt):
            thin_store(built, out, draws=8, quiet=True)
    thin_store(built, out, draws=8, resume=True, quiet=True)
    found, wanted = fingerprint(out), fingerprint(tmp_path / "thin")
    assert found == wanted
    assert verify_store(out) == []
    with pytest.raises(InvalidInput, match="inside"):
        thin_store(built, f"{built}/inside", draws=8, quiet=True)


def test_a_writer_makes_a_store_in_a_bucket_and_resumes(place, tmp_path):
    lengths = [3, 7, 5, 5, 2, 4, 6, 1, 3]
    tokens, targets = make_store(tmp_path / "here", lengths=lengths)
    options = {"vocab_size": 50, "sampler": logitstore.samplers.RandomSampling(8), "sequences_per_shard": 4}
    stopped = create_store(place, **options)
    for ids, sparse in zip(tokens[:6], targets[:6], strict=True):
        stopped.append(ids, sparse)
    stopped.__exit__(RuntimeError, RuntimeError(), None)
    with create_store(place, **options, resume=True) as writer:
        assert writer.num_sequences == 4
        for ids, sparse in zip(tokens[4:], targets[4:], strict=True):
            writer.append(ids, sparse)
    assert fingerprint(place) == fingerprint(tmp_path / "here")
    again, _ = random_targets(lengths)
    assert [sequence.tokens.tolist() for sequence in open_store(place)] == [ids.tolist() for ids in again]


def test_a_path_object_of_an_address_is_refused():
    with pytest.raises(InvalidInput, match="as a string"):
        open_store(Path("s3://bucket/store"))
