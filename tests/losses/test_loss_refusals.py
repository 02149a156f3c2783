import inspect
import math

import pytest
import torch

from logitstore.errors import InvalidInput
from logitstore.losses import sparse_kd_loss
from logitstore.targets import PaddedTargets, SparseTargets
from tests.losses.random_targets import random_logits, random_targets

LOGITS = random_logits(3, 7)
TARGETS = random_targets([2, 0, 3], 7)
LABELS = torch.tensor([1, -100, 6])


def refused(logits, targets, labels=None, *, match, **options):
    with pytest.raises(InvalidInput, match=match):
        sparse_kd_loss(logits, targets, labels, **options)


def test_what_the_refusals_start_from_is_accepted():
    assert sparse_kd_loss(LOGITS, TARGETS, LABELS, alpha=0.5) > 0


@pytest.mark.parametrize("shape", [(7,), (), (1, 1, 3, 7)])
def test_logits_of_another_rank(shape):
    refused(torch.zeros(shape), TARGETS, match=r"student_logits have shape \(.*\); \[T, V\] or \[B, S, V\]")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_logits_that_are_not_of_a_floating_dtype_it_computes_with(dtype):
    refused(torch.zeros(3, 7).to(dtype), TARGETS, match=f"student_logits are {dtype}; bfloat16, float16")


def test_logits_and_labels_that_are_no_tensors():
    refused(LOGITS.tolist(), TARGETS, match="student_logits are a list")
    refused(LOGITS, TARGETS, LABELS.tolist(), match="labels are a list")


def test_logits_without_columns():
    refused(torch.zeros(3, 0), random_targets([0, 0, 0], 1), match="a vocabulary of at least 1")


def test_targets_of_another_type():
    refused(LOGITS, (TARGETS.ids, TARGETS.weights), match="targets are a tuple; SparseTargets or PaddedTargets")


@pytest.mark.parametrize("counts", [[2, 0], [2, 0, 3, 1], []])
def test_position_counts_that_differ(counts):
    for targets in (random_targets(counts, 7), random_targets(counts, 7).to_padded()):
        refused(LOGITS, targets, match=rf"targets have {len(counts)} positions, student_logits 3 \(shape \(3, 7\)\)")
    refused(LOGITS.view(3, 1, 7), random_targets(counts, 7), match="student_logits 3")


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (1, 3), ()])
def test_labels_of_another_shape(shape):
    refused(LOGITS, TARGETS, torch.zeros(shape).long(), match=r"labels have shape .* \(3,\) were wanted")


def test_labels_by_position_where_sequences_are_transposed():
    targets = random_targets([1] * 6, 7)
    refused(torch.zeros(2, 3, 7), targets, torch.zeros(3, 2).long(), match=r"labels of shape \(2, 3\)")


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.bool])
def test_labels_of_another_dtype(dtype):
    refused(LOGITS, TARGETS, LABELS.to(dtype), match=f"labels are {dtype}; torch.int64")


@pytest.mark.parametrize("label", [-1, -101, 7, 2**40])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_labels_out_of_range(label, alpha):
    labels = torch.tensor([1, -100, label])
    refused(LOGITS, TARGETS, labels, alpha=alpha, match=f"labels hold {label}, which is neither -100")


@pytest.mark.parametrize("form", ["csr", "padded"])
def test_ids_that_need_more_columns(form):
    targets = SparseTargets(torch.tensor([0, 1]), torch.tensor([7]).int(), torch.ones(1))
    targets = targets if form == "csr" else targets.to_padded(2)
    with pytest.raises(InvalidInput, match="token id 7, which does not fit a vocabulary of 7") as refusal:
        sparse_kd_loss(LOGITS[:1], targets)
    assert refusal.value.kind == "id-out-of-range"


def test_negative_ids_other_than_padding():
    csr = SparseTargets(torch.tensor([0, 1]), torch.tensor([-1]).int(), torch.ones(1))
    refused(LOGITS[:1], csr, match="token id -1")
    padded = PaddedTargets(torch.tensor([[-2, 1]]).int(), torch.ones(1, 2))
    refused(LOGITS[:1], padded, match="token id -2")


@pytest.mark.parametrize("offsets", [[0, 2, 2, 4], [1, 2, 2, 5], [0, 3, 2, 5], [0, 2, 2, 6]])
def test_offsets_that_do_not_cover_the_entries(offsets):
    targets = SparseTargets(torch.tensor(offsets), TARGETS.ids, TARGETS.weights)
    refused(LOGITS, targets, match=f"targets.offsets go from {offsets[0]} to {offsets[-1]}; .* the 5 entries")


def test_devices_that_differ():
    refused(LOGITS.to("meta"), TARGETS, match="targets.offsets is on cpu, student_logits on meta")
    refused(LOGITS, TARGETS.to_padded().to("meta"), match="targets.ids is on meta, student_logits on cpu")
    with pytest.raises(InvalidInput, match="teacher_entropy on meta"):
        random_targets([2, 0, 3], 7, teacher_entropy=torch.ones(3).to("meta"))
    refused(LOGITS, TARGETS, LABELS.to("meta"), match="labels are on meta, student_logits on cpu")


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan, math.inf, "1", None, True, torch.tensor(0.5)])
def test_alpha_out_of_range(alpha):
    refused(LOGITS, TARGETS, LABELS, alpha=alpha, match="alpha is")


@pytest.mark.parametrize("alpha", [0, 0.99])
def test_alpha_below_1_without_labels(alpha):
    refused(LOGITS, TARGETS, alpha=alpha, match=f"alpha is {alpha} but there are no labels")


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, "1", None, True])
def test_temperature_out_of_range(temperature):
    refused(LOGITS, TARGETS, temperature=temperature, match="temperature is .* a finite number above 0")


@pytest.mark.parametrize("reduction", ["batchmean", "", None])
def test_unknown_reduction(reduction):
    refused(LOGITS, TARGETS, reduction=reduction, match="reduction is .* one of none, sum, mean")


@pytest.mark.parametrize("value", ["reverse_kl", None])
def test_unknown_value(value):
    refused(LOGITS, TARGETS, value=value, match="value is .* one of soft_cross_entropy, kl")


def test_kl_without_the_teachers_entropy():
    for targets in (TARGETS, TARGETS.to_padded()):
        refused(LOGITS, targets, value="kl", match='value is "kl" but the targets carry no teacher_entropy')


def test_the_signature_is_the_documented_one():
    parameters = inspect.signature(sparse_kd_loss).parameters
    assert list(parameters) == [
        "student_logits", "targets", "labels", "alpha", "temperature", "reduction", "value", "label_smoothing", "z_loss",
        "softcap", "missing_mass", "position_weights", "debug",
    ]  # fmt: skip
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["student_logits", "targets", "labels", "alpha", "temperature", "reduction"]
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    assert defaults == {
        "labels": None, "alpha": 1.0, "temperature": 1.0, "reduction": "mean", "value": "soft_cross_entropy",
        "label_smoothing": 0.0, "z_loss": 0.0, "softcap": None, "missing_mass": "ignore", "position_weights": None,
        "debug": None,
    }  # fmt: skip
