import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from logitstore.store import open_store, verify_store
from logitstore.store.layout import FORMAT_VERSION
from logitstore.targets import STATISTIC_FIELDS
from tests.store.make_golden_stores import FOLDER, SAMPLERS, golden_sequences, to_json, write_golden

#: of every format version that was ever written by a release
CASES = sorted(path.parent for path in FOLDER.parent.glob("format-*/*/store"))


def names(paths):
    return [f"{path.parent.name}-{path.name}" for path in paths]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_a_golden_store_is_clean_and_holds_what_was_stored(case):
    assert verify_store(case / "store") == []
    store, wanted = open_store(case / "store"), json.loads((case / "sequences.json").read_text())
    assert [to_json(sequence) for sequence in store] == wanted


def check_what_went_in(name):
    # the samplers may draw otherwise one day; what they drew then is in the store
    store = open_store(FOLDER / name / "store")
    for sequence, (tokens, targets) in zip(store, golden_sequences(SAMPLERS[name]), strict=True):
        assert sequence.tokens.tolist() == tokens.tolist()
        assert torch.equal(sequence.targets.ids, targets.ids)
        assert torch.allclose(sequence.targets.weights, targets.weights, rtol=0, atol=6e-3)
        for field in STATISTIC_FIELDS.values():
            found, given = getattr(sequence.targets, field), getattr(targets, field)
            assert (found is None and given is None) or torch.equal(found, given)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_was_stored_is_what_went_in(name):
    """With torch's plain sine and exponential: those for AVX-512 differ in the last bit, which moves a draw."""
    program = f"from tests.store.test_golden_stores import check_what_went_in; check_what_went_in({name!r})"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_case_of_the_present_format_is_there():
    assert FOLDER.name == f"format-{FORMAT_VERSION}"
    assert {case.name for case in CASES if case.parent == FOLDER} == set(SAMPLERS)


def test_golden_stores_are_never_overwritten():
    with pytest.raises(FileExistsError):
        write_golden()
