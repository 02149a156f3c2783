import json

import pcodec
import pytest

from logitstore.codec import FORMAT_VERSION, PROBABILITY_RELATIVE_ERROR, WeightForm, decode, encode, read_header
from tests.codec.make_golden import FOLDER, from_json, golden_cases, write_golden
from tests.codec.sequence_arrays import assert_keeps_the_rules, assert_same

CASES = sorted(path.stem for path in FOLDER.glob("*.bin"))


def load(case):
    stored = json.loads((FOLDER / f"{case}.json").read_text())
    return (FOLDER / f"{case}.bin").read_bytes(), from_json(stored), stored["pcodec"]


@pytest.mark.parametrize("case", CASES)
def test_golden_blobs_of_every_version_decode_to_what_was_stored(case):
    blob, wanted, _ = load(case)
    decoded = decode(blob)
    rounded = wanted.form == WeightForm.PROBABILITIES
    assert_same(decoded, wanted, values=not rounded)
    if rounded:
        assert decoded.values.tolist() == pytest.approx(wanted.values.tolist(), rel=PROBABILITY_RELATIVE_ERROR)
    assert_keeps_the_rules(decoded)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith(f"v{FORMAT_VERSION}-")])
def test_encoding_the_golden_arrays_gives_the_golden_bytes(case):
    blob, arrays, version = load(case)
    if version != pcodec.__version__:
        pytest.skip(f"the bytes were written by pcodec {version}; another version may choose others")
    assert encode(arrays) == blob


def test_each_golden_case_and_form_of_the_present_version_is_stored():
    assert {case for case in CASES if case.startswith(f"v{FORMAT_VERSION}-")} == {
        f"v{FORMAT_VERSION}-{name}" for name in golden_cases()
    }
    assert {read_header(load(case)[0]).form for case in CASES} == set(WeightForm)


def test_golden_blobs_are_never_overwritten(tmp_path):
    write_golden(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / f"v{FORMAT_VERSION}-counts.bin").unlink()
    with pytest.raises(FileExistsError, match="written once"):
        write_golden(tmp_path)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == {name: content for name, content in before.items() if name != f"v{FORMAT_VERSION}-counts.bin"}
