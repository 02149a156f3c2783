"""The logits a teacher hands out are the model's own, each position once."""

import logging

import numpy as np
import pytest
import torch

from logitstore.errors import InvalidInput, TeacherError
from logitstore.teachers import HuggingFaceTeacher, load_teacher
from logitstore.teachers import row_blocks as row_blocks_module
from logitstore.teachers.row_blocks import TOLERANCE
from tests.support.tiny_models import ARCHITECTURES, make_tiny_teacher

V = 320
ROW_BYTES = V * 4
#: kernels sum in another order for another number of rows; logits here are of order 1 to 30
CLOSE = {"rtol": TOLERANCE[torch.float32], "atol": 1e-4}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    made = {}

    def get(architecture):
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = make_tiny_teacher(folder, vocab_size=V, architecture=architecture)
        return made[architecture]

    return get


def sequences(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, V, length).astype(np.int32) for length in lengths]


def direct_logits(teacher, sequence):
    with torch.inference_mode():
        return teacher.model(torch.from_numpy(sequence.astype(np.int64))[None]).logits[0]


def collect(teacher, batch):
    """Return the logits of each sequence, having seen that every position came once and in order."""
    found = [[] for _ in batch]
    last = -1
    for number, first, logits in teacher.logit_blocks(batch):
        assert number >= last
        assert first == sum(len(block) for block in found[number])
        assert logits.ndim == 2
        assert logits.shape[1] == teacher.logits_width
        found[number].append(logits)
        last = number
    joined = [torch.cat(blocks) for blocks in found]
    assert [len(logits) for logits in joined] == [len(sequence) for sequence in batch]
    return joined


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("rows", [1000, 40, 7, 1])
def test_logit_blocks_equal_the_models_own_logits(checkpoints, architecture, rows):
    # 1000 rows: all at once; 40: two or three sequences at a time; 7 and 1: the head in blocks
    teacher = load_teacher(checkpoints(architecture), max_logits_bytes=rows * ROW_BYTES)
    batch = sequences([17, 5, 1, 23, 8])
    for logits, sequence in zip(collect(teacher, batch), batch, strict=True):
        torch.testing.assert_close(logits, direct_logits(teacher, sequence), **CLOSE)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_head_runs_in_blocks_within_the_budget(checkpoints, architecture):
    teacher = load_teacher(checkpoints(architecture), max_logits_bytes=6 * ROW_BYTES)
    blocks = list(teacher.logit_blocks(sequences([20])))
    assert [(first, len(logits)) for _, first, logits in blocks] == [(0, 6), (6, 6), (12, 6), (18, 2)]


def test_blocks_run_the_body_once(checkpoints):
    teacher = load_teacher(checkpoints("llama"), max_logits_bytes=6 * ROW_BYTES)
    collect(teacher, sequences([20]))  # the first use verifies the blocks with runs of its own
    calls = []
    hook = teacher.model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    collect(teacher, sequences([20]))
    hook.remove()
    assert len(calls) == 1


def test_blocks_leave_the_model_as_it_was(checkpoints):
    teacher = load_teacher(checkpoints("gemma2"), max_logits_bytes=6 * ROW_BYTES)
    sequence = sequences([20])[0]
    before = direct_logits(teacher, sequence)
    abandoned = teacher.logit_blocks([sequence])
    next(abandoned)
    assert torch.equal(direct_logits(teacher, sequence), before)
    assert "forward" not in teacher.model.model.__dict__


def test_bfloat16_blocks_equal_bfloat16_logits(checkpoints):
    teacher = load_teacher(checkpoints("gemma2"), dtype="bfloat16", max_logits_bytes=6 * V * 2)
    sequence = sequences([20])[0]
    (logits,) = collect(teacher, [sequence])
    assert logits.dtype == torch.bfloat16
    # half a unit in the last place of 1.5, the softcap
    torch.testing.assert_close(logits, direct_logits(teacher, sequence), rtol=0.0, atol=2**-6)


def test_a_model_whose_blocks_differ_runs_whole_with_a_warning(checkpoints, monkeypatch, caplog):
    exact = row_blocks_module.block_logits

    def scaled(model, tokens, rows):
        return ((first, logits * 1.01) for first, logits in exact(model, tokens, rows))

    monkeypatch.setattr(row_blocks_module, "block_logits", scaled)
    teacher = load_teacher(checkpoints("llama"), max_logits_bytes=6 * ROW_BYTES)
    sequence = sequences([20])[0]
    with caplog.at_level(logging.WARNING, logger="logitstore"):
        blocks = list(teacher.logit_blocks([sequence]))
    assert [(number, first, len(logits)) for number, first, logits in blocks] == [(0, 0, 20)]
    torch.testing.assert_close(blocks[0][2], direct_logits(teacher, sequence), **CLOSE)
    assert "cannot run its head in blocks" in caplog.text


def test_padding_does_not_reach_real_positions(checkpoints):
    teacher = load_teacher(checkpoints("gpt2"))
    short, long = sequences([9, 40])
    (alone,) = collect(teacher, [short])
    beside, _ = collect(teacher, [short, long])
    torch.testing.assert_close(beside, alone, **CLOSE)


def test_an_empty_batch_yields_nothing(checkpoints):
    assert list(load_teacher(checkpoints("llama")).logit_blocks([])) == []


def test_planned_batches_fit_the_budget(checkpoints):
    teacher = load_teacher(checkpoints("llama"), max_logits_bytes=100 * ROW_BYTES)
    assert teacher.plan_batch_size(10) == 10
    assert teacher.plan_batch_size(33) == 3
    assert teacher.plan_batch_size(64) == 1
    assert teacher.plan_batch_size(1) == 64


def test_a_default_budget_is_positive_and_bounded(checkpoints):
    budget = load_teacher(checkpoints("llama")).max_logits_bytes
    assert 64 << 20 <= budget <= 2 << 30


def test_a_budget_that_is_not_positive_is_refused(checkpoints):
    with pytest.raises(InvalidInput, match="max_logits_bytes is 0"):
        load_teacher(checkpoints("llama"), max_logits_bytes=0)


@pytest.mark.parametrize("wrong", [-1, V])
def test_an_id_outside_the_vocabulary_is_named(checkpoints, wrong):
    batch = sequences([4, 6])
    batch[1][3] = wrong
    with pytest.raises(InvalidInput, match=rf"sequence 1 .* token id {wrong} at position 3"):
        next(load_teacher(checkpoints("llama")).logit_blocks(batch))


@pytest.mark.parametrize("wrong", [np.zeros((2, 3), np.int32), np.zeros(3), np.zeros(0, np.int32)])
def test_what_is_not_a_row_of_ids_is_refused(checkpoints, wrong):
    with pytest.raises(InvalidInput):
        next(load_teacher(checkpoints("llama")).logit_blocks([wrong]))


def test_a_sequence_beyond_the_context_is_refused_with_both_numbers(checkpoints):
    teacher = load_teacher(checkpoints("llama"))
    teacher.check_seq_len(64)
    with pytest.raises(TeacherError, match=r"65 tokens .* 64 at most") as caught:
        teacher.check_seq_len(65)
    assert caught.value.kind == "context-too-short"
    with pytest.raises(TeacherError, match="65 tokens"):
        next(teacher.logit_blocks(sequences([65])))


def test_the_default_dtype_on_a_cpu_is_float32(tmp_path):
    make_tiny_teacher(tmp_path, dtype=torch.bfloat16, tokenizer_size=None)
    assert load_teacher(tmp_path, device="cpu").dtype == torch.float32
    assert load_teacher(tmp_path, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_the_weights_hash_survives_a_reload_and_sees_one_weight(checkpoints):
    first, second = load_teacher(checkpoints("qwen2")), load_teacher(checkpoints("qwen2"))
    assert first.weights_sha256() == second.weights_sha256()
    changed = first.model
    weight = changed.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        weight[3, 5] = -weight[3, 5]
    assert HuggingFaceTeacher(changed, first.info).weights_sha256() != second.weights_sha256()


def test_the_weights_hash_differs_between_dtypes(checkpoints):
    hashes = {load_teacher(checkpoints("llama"), dtype=d).weights_sha256() for d in ("float32", "bfloat16", "float16")}
    assert len(hashes) == 3


def test_provenance_is_json_and_names_the_teacher(checkpoints):
    import json

    teacher = load_teacher(checkpoints("llama"))
    found = json.loads(json.dumps(teacher.provenance()))
    assert found == {
        "id": str(checkpoints("llama")),
        "gguf_file": None,
        "revision": None,
        "commit": None,
        "model_type": "llama",
        "weights_sha256": teacher.weights_sha256(),
        "dtype": "float32",
        "context_length": 64,
        "logits_width": V,
        "num_parameters": sum(p.numel() for p in teacher.model.parameters()),
    }
