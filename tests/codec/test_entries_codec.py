import numcodecs
import numpy as np
import pytest
from numcodecs.registry import register_codec

from logitstore.codec.arrays import WeightForm
from logitstore.codec.coding import encode
from logitstore.codec.entries_codec import ENTRY_DTYPE, EntriesCodec
from logitstore.errors import InvalidInput, StoreError
from tests.codec.coded_sequences import build, random_sequence, table_for


@pytest.fixture(autouse=True)
def _registered():
    register_codec(EntriesCodec)


def codec_for(form, folder):
    table = table_for(form)
    path = folder / "frequencies.bin"
    path.write_bytes(table.to_bytes())
    return numcodecs.get_codec({"id": "logitstore", "table_path": str(path), "table_sha256": table.sha256})


@pytest.mark.parametrize("form", list(WeightForm))
def test_the_entries_of_a_blob_come_as_a_table(form, tmp_path):
    codec, arrays = codec_for(form, tmp_path), random_sequence(form, num_tokens=40)
    entries = codec.decode(encode(arrays, table_for(form)))
    assert entries.dtype == ENTRY_DTYPE
    assert entries["id"].tolist() == arrays.ids.tolist()
    assert np.bincount(entries["position"], minlength=40).tolist() == arrays.counts.tolist()
    assert (np.diff(entries["position"].astype(int)) >= 0).all()
    if form in (WeightForm.COUNTS, WeightForm.HEAD_GRID):
        sums = np.bincount(entries["position"], entries["weight"], minlength=40)
        assert sums[arrays.counts > 0] == pytest.approx(1, abs=1e-6)


def test_weights_are_what_the_format_says(tmp_path):
    counts = build(WeightForm.COUNTS, [([3, 9], []), ([4], [])], [30, 20, 50])
    grid = build(WeightForm.HEAD_GRID, [([3], [9, 17]), ([4, 5], []), ([], [8])], [40, 20, 44])
    for arrays, wanted in ((counts, [0.6, 0.4, 1]), (grid, [40 / 64, 12 / 64, 12 / 64, 20 / 64, 44 / 64, 1])):
        entries = codec_for(arrays.form, tmp_path).decode(encode(arrays, table_for(arrays.form)))
        assert entries["weight"].tolist() == np.array(wanted, np.float32).tolist()


def test_the_configuration_survives_a_round_trip(tmp_path):
    codec = codec_for(WeightForm.COUNTS, tmp_path)
    assert codec.get_config()["id"] == "logitstore"
    assert numcodecs.get_codec(codec.get_config()) == codec


def test_entries_are_put_where_the_caller_wants_them(tmp_path):
    codec, arrays = codec_for(WeightForm.COUNTS, tmp_path), random_sequence(WeightForm.COUNTS, num_tokens=10)
    blob = encode(arrays, table_for(WeightForm.COUNTS))
    out = np.zeros(len(arrays.ids), ENTRY_DTYPE)
    codec.decode(blob, out=out)
    assert np.array_equal(out, codec.decode(blob))
    with pytest.raises(InvalidInput, match="room for 1 entries"):
        codec.decode(blob, out=out[:1])


def test_another_table_or_none_is_refused(tmp_path):
    codec = codec_for(WeightForm.COUNTS, tmp_path)
    blob = encode(random_sequence(WeightForm.COUNTS, num_tokens=10), table_for(WeightForm.COUNTS))
    for wrong in (EntriesCodec(codec.table_path, "0" * 64), EntriesCodec(str(tmp_path / "none"), codec.table_sha256)):
        with pytest.raises(StoreError) as caught:
            wrong.decode(blob)
        assert caught.value.kind == "wrong-table"


def test_it_does_not_write(tmp_path):
    with pytest.raises(InvalidInput, match="only reads"):
        codec_for(WeightForm.COUNTS, tmp_path).encode(b"")
