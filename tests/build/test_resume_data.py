import shutil

import pytest

from logitstore.build import run_units
from logitstore.errors import StoreError
from logitstore.store import open_store
from logitstore.store.repair import repair_store
from tests.build.test_build import bytes_of
from tests.build.test_build import run as build
from tests.support.toy_teachers import ByteTokenizer


class CountingTokenizer(ByteTokenizer):
    def __init__(self):
        self.texts = 0

    def encode(self, text):
        self.texts += 1
        return super().encode(text)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 20)
    (folder / "b.txt").write_text("pack my box with five dozen liquor jugs. " * 20)
    return folder


@pytest.fixture
def unfinished(tmp_path, data, monkeypatch):
    def begin(**options):
        def stops(*arguments):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(run_units, "run_unit", stops)
            with pytest.raises(KeyboardInterrupt):
                build(tmp_path / "s", data, **options)
        return tmp_path / "s"

    return begin


def texts_of_resuming(path, data, **options):
    """Resume, and return how many texts were tokenised."""
    tokenizer = CountingTokenizer()
    build(path, data, tokenizer=tokenizer, resume=True, **options)
    return tokenizer.texts


def test_a_resume_with_the_same_data_tokenises_nothing(tmp_path, data, unfinished):
    assert texts_of_resuming(tmp_path / "whole", data) == 2
    assert texts_of_resuming(unfinished(), data) == 0
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")
    assert texts_of_resuming(tmp_path / "s", data) == 0  # finished


def test_a_folder_of_another_name_is_the_same_data(data, unfinished, tmp_path):
    path = unfinished()
    shutil.move(data, tmp_path / "moved")
    assert texts_of_resuming(path, tmp_path / "moved") == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: (data / "b.txt").write_text((data / "b.txt").read_text().replace("box", "bag")), "data.1.sha256"),
        (lambda data: (data / "b.txt").write_text("other"), "data.1.bytes"),
        (lambda data: (data / "c.txt").write_text("more"), "data.2.sha256"),
        (lambda data: (data / "b.txt").unlink(), "data.1.sha256"),
        (lambda data: (data / "b.txt").rename(data / "0.txt"), "data.0.sha256"),
    ],
)
def test_other_data_is_refused_by_name(data, unfinished, change, named):
    path = unfinished()
    change(data)
    with pytest.raises(StoreError, match=named) as caught:
        texts_of_resuming(path, data)
    assert caught.value.kind == "settings-differ"
    assert "plan.tokens_sha256" in str(caught.value)


def test_files_after_the_limit_do_not_matter_but_those_before_it_do(data, unfinished):
    path = unfinished(limit_tokens=200)
    (data / "c.txt").write_text("more")
    (data / "b.txt").write_text("other")  # the limit was reached in a.txt
    assert texts_of_resuming(path, data, limit_tokens=200) == 0
    assert int(open_store(path).sequence_lengths.sum()) == 200
    (data / "a.txt").write_text("other" * 100)
    with pytest.raises(StoreError, match=r"data\.0\.sha256"):
        texts_of_resuming(path, data, limit_tokens=200)


def test_a_limit_that_was_not_reached_is_no_reason_to_ignore_a_new_file(data, unfinished):
    path = unfinished(limit_tokens=10**6)
    (data / "c.txt").write_text("more")
    with pytest.raises(StoreError, match=r"data\.2\.sha256"):
        texts_of_resuming(path, data, limit_tokens=10**6)


def test_another_packing_is_refused_without_tokenising(data, unfinished):
    path = unfinished()
    with pytest.raises(StoreError, match=r"packing.seq_len: the store has 64, asked for was 32") as caught:
        build(path, data, seq_len=32, resume=True)
    assert caught.value.kind == "settings-differ"
    with pytest.raises(StoreError, match="bos_id: the store has 1, asked for was None"):
        build(path, data, bos=False, resume=True)


def test_a_repaired_store_has_its_plan_made_again(data, tmp_path):
    build(tmp_path / "s", data)
    whole = bytes_of(tmp_path / "s")
    shard = next((tmp_path / "s" / "sequences" / "c").iterdir())
    shard.write_bytes(shard.read_bytes()[:-9])
    repair_store(tmp_path / "s")
    assert texts_of_resuming(tmp_path / "s", data) == 2
    assert bytes_of(tmp_path / "s") == whole
