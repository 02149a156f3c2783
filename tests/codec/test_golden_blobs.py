import json

import pcodec
import pytest

from logitstore.codec.arrays import WeightForm
from logitstore.codec.coding import decode, encode
from logitstore.codec.front import read_header
from logitstore.codec.probability_codes import probability_error
from logitstore.codec.table import FrequencyTable
from tests.codec.coded_sequences import assert_keeps_the_rules, assert_same
from tests.codec.make_golden import FOLDER, from_json, golden_arrays, write_golden

CASES = sorted(path.stem for path in FOLDER.glob("*.bin"))


def load(case):
    stored = json.loads((FOLDER / f"{case}.json").read_text())
    table = FrequencyTable.from_bytes((FOLDER / f"{case}.table").read_bytes())
    return (FOLDER / f"{case}.bin").read_bytes(), table, from_json(stored), stored["pcodec"]


@pytest.mark.parametrize("case", CASES)
def test_golden_blobs_decode_to_what_was_stored(case):
    blob, table, wanted, _ = load(case)
    decoded = decode(blob, table)
    rounded = wanted.form == WeightForm.PROBABILITIES
    assert_same(decoded, wanted, values=not rounded)
    if rounded:
        for found, value in zip(decoded.values.tolist(), wanted.values.tolist(), strict=True):
            assert abs(found - value) <= probability_error(value, wanted.scale)
    assert_keeps_the_rules(decoded, table.vocab_size)


@pytest.mark.parametrize("case", CASES)
def test_encoding_the_golden_arrays_gives_the_golden_bytes(case):
    blob, table, arrays, version = load(case)
    if version != pcodec.__version__ and read_header(blob).sections:
        pytest.skip(f"the sections were written by pcodec {version}; another version may choose other bytes")
    assert encode(arrays, table) == blob


def test_each_golden_case_and_form_is_stored():
    assert set(CASES) == set(golden_arrays())
    assert {read_header(load(case)[0]).form for case in CASES} == set(WeightForm)


def test_golden_blobs_are_never_overwritten(tmp_path):
    write_golden(tmp_path)
    (tmp_path / "counts.bin").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="written once"):
        write_golden(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
