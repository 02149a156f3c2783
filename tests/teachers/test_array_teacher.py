"""A function as teacher: same contract as a checkpoint."""

import numpy as np
import pytest
import torch

from logitstore.errors import InvalidInput, TeacherError
from logitstore.teachers import ArrayTeacher, Teacher, load_teacher
from tests.support.tiny_models import make_tiny_teacher

V = 12


def bigram(tokens):
    """Logits that depend on the token at the position alone."""
    table = torch.randn(V, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return table[tokens]


def make(function=bigram, **options):
    return ArrayTeacher(function, **({"vocab_size": V, "name": "bigram"} | options))


def test_the_functions_logits_come_out_unchanged():
    batch = [np.array([3, 1, 4], np.int32), np.array([1], np.uint16)]
    blocks = list(make(dtype=torch.float64).logit_blocks(batch))
    assert [(number, first) for number, first, _ in blocks] == [(0, 0), (1, 0)]
    for (_, _, logits), sequence in zip(blocks, batch, strict=True):
        assert torch.equal(logits, bigram(torch.from_numpy(sequence.astype(np.int64))))


def test_the_function_gets_one_row_of_int64():
    seen = []

    def spy(tokens):
        seen.append((tuple(tokens.shape), tokens.dtype))
        return bigram(tokens)

    (block,) = make(spy).logit_blocks([np.array([3, 1], np.int32)])
    assert seen == [((1, 2), torch.int64)]
    assert block[2].dtype == torch.float32


@pytest.mark.parametrize("wrong", [lambda t: bigram(t)[..., :-1], lambda t: bigram(t)[0], lambda t: "logits"])
def test_another_shape_is_refused(wrong):
    with pytest.raises(TeacherError, match=r"\(1, 2, 12\) were wanted") as caught:
        next(make(wrong).logit_blocks([np.array([3, 1])]))
    assert caught.value.kind == "bad-logits"


def test_ids_and_lengths_are_checked():
    teacher = make(context_length=4)
    with pytest.raises(InvalidInput, match="token id 12 at position 1"):
        next(teacher.logit_blocks([np.array([3, 12])]))
    with pytest.raises(TeacherError, match=r"5 tokens .* 4 at most") as caught:
        next(teacher.logit_blocks([np.zeros(5, np.int64)]))
    assert caught.value.kind == "context-too-short"
    with pytest.raises(TeacherError):
        teacher.plan_batch_size(5)


@pytest.mark.parametrize("options", [{"vocab_size": 0}, {"name": ""}, {"dtype": torch.int32}])
def test_arguments_that_cannot_be_used_are_refused(options):
    with pytest.raises(InvalidInput):
        make(**options)


def test_both_teachers_keep_the_protocol(tmp_path):
    wanted = {name for name in vars(Teacher) if not name.startswith("_")}
    assert {"logits_width", "logit_blocks", "provenance", "plan_batch_size", "check_seq_len"} <= wanted
    for teacher in (make(), load_teacher(make_tiny_teacher(tmp_path, tokenizer_size=None))):
        assert wanted <= set(dir(teacher))
        assert teacher.provenance()["logits_width"] == teacher.logits_width
        assert teacher.plan_batch_size(2) >= 1
        assert teacher.device.type in ("cpu", "cuda", "mps")
