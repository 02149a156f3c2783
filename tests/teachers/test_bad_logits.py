"""Logits that cannot be a distribution are named by sequence and position."""

import math

import pytest
import torch

from logitstore.errors import TeacherError
from logitstore.teachers import check_logits

T, V = 9, 251


def logits(dtype=torch.float32):
    return torch.randn(T, V, generator=torch.Generator().manual_seed(5)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("column", [0, 100, V - 1])
@pytest.mark.parametrize(("value", "found"), [(math.nan, "NaN"), (math.inf, r"\+inf")])
def test_the_first_bad_position_is_named(dtype, column, value, found):
    bad = logits(dtype)
    bad[4, column] = value
    bad[7] = value
    with pytest.raises(TeacherError, match=rf"position 104 of sequence 3 have {found}") as caught:
        check_logits(bad, 3, 100)
    assert (caught.value.kind, caught.value.exit_code) == ("bad-logits", 1)


def test_a_row_of_nothing_but_minus_inf_is_bad():
    bad = logits()
    bad[T - 1] = -math.inf
    with pytest.raises(TeacherError, match=r"position 8 of sequence 0 have -inf in all 251 columns"):
        check_logits(bad, 0, 0)


def test_nan_beside_inf_is_nan():
    bad = logits()
    bad[2, 3], bad[2, 4] = math.inf, math.nan
    with pytest.raises(TeacherError, match="NaN"):
        check_logits(bad, 0, 0)


def test_probabilities_of_zero_and_the_largest_finite_values_are_accepted():
    good = logits()
    good[1, 1:] = -math.inf
    good[2] = torch.finfo(torch.float32).max
    good[3] = torch.finfo(torch.float32).min
    check_logits(good, 0, 0)


def test_no_positions_are_accepted():
    check_logits(torch.empty(0, V), 0, 0)
