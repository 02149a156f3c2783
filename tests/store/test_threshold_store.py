import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.samplers import Threshold
from logitstore.store import create_store, open_store
from logitstore.targets import SparseTargets
from tests.support.stores import make_store

GRID = 64


def threshold_targets(ids, weights, heads, **fields):
    counts = torch.tensor([0, len(ids)])
    heads = None if heads is None else torch.tensor([heads], dtype=torch.int32)
    return SparseTargets(counts, torch.tensor(ids).int(), torch.tensor(weights), heads, **fields)


def test_head_and_tail_are_read_back_bit_for_bit(tmp_path):
    _, targets = make_store(tmp_path / "s", sampler=Threshold(9), lengths=[40, 3])
    for sequence, wanted in zip(open_store(tmp_path / "s"), targets, strict=True):
        for field in ("offsets", "ids", "weights", "head_counts"):
            assert torch.equal(getattr(sequence.targets, field), getattr(wanted, field))
        assert sequence.targets.sampler == "threshold"
        assert int(wanted.head_counts.sum()) > 0


BAD = {
    "off the grid": (threshold_targets([1, 2], [0.51, 0.49], 1), "no multiple of 1/64"),
    "tail not shared": (threshold_targets([1, 2, 3], [0.5, 0.3, 0.2], 1), "its share of what the head leaves"),
    "twice": (threshold_targets([1, 1], [0.5, 0.5], 1), "holds token id 1 twice"),
    "no heads": (threshold_targets([1, 2], [0.5, 0.5], None), "has no head_counts"),
    "too many heads": (threshold_targets([1, 2], [0.5, 0.5], 3), "has 3 head entries"),
    "sum": (threshold_targets([1, 2], [0.5, 0.25], 2), "sum to 0.75; 1 was wanted"),
    "head order": (threshold_targets([2, 1], [0.5, 0.5], 2), "rise strictly"),
    "tail order": (threshold_targets([1, 3, 2], [0.5, 0.25, 0.25], 1), "rise strictly"),
}


@pytest.mark.parametrize("name", BAD)
def test_targets_that_are_no_threshold_sample_are_refused(tmp_path, name):
    targets, match = BAD[name]
    with create_store(tmp_path / "s", vocab_size=9, sampler=Threshold(20, grid=GRID)) as writer:
        writer.append([1], threshold_targets([4, 1, 2], [0.5, 0.25, 0.25], 1))
        with pytest.raises(InvalidInput, match=match):
            writer.append([1], targets)
    assert open_store(tmp_path / "s")[0].targets.ids.tolist() == [4, 1, 2]


def test_a_sampler_without_its_grid_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="names no grid"):
        create_store(tmp_path / "s", vocab_size=9, sampler={"name": "threshold", "draws": 20})
