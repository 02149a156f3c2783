import json

import numpy as np
import pytest
import torch

from logitstore.build.merge import merge_stores
from logitstore.build.rescore import rescore_store
from logitstore.build.rescore_report import FALSE_ALARM
from logitstore.build.thin import thin_store
from logitstore.samplers import RandomSampling, Threshold, TopK, TopP
from tests.build.scored_stores import (
    LENGTH,
    SAMPLERS,
    TOKENIZER_SIZE,
    UNBIASED,
    VOCAB_SIZE,
    make_scored_store,
    rows_after,
    toy_teacher,
)

ONE_OF_EACH = [Threshold(20), RandomSampling(20), RandomSampling(12, 0.8), TopK(20), TopP(0.9)]


@pytest.fixture(scope="module")
def scored_store(tmp_path_factory):
    """Make a store that is only read, once for equal arguments."""
    made = {}

    def make(sampler, **options):
        key = (sampler, *sorted(options.items()))
        if key not in made:
            made[key] = make_scored_store(tmp_path_factory.mktemp("scored") / "s", sampler, **options)
        return made[key]

    return make


def rescore(path, fraction=1.0, **options):
    return rescore_store(path, fraction, **{"teacher": toy_teacher(), "quiet": True, **options})


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_store_agrees_with_its_own_teacher(scored_store, sampler):
    result = rescore(scored_store(sampler))
    numbers = result.to_dict()
    assert result.findings == []
    assert numbers["identical_share"] == 1.0
    assert numbers["disagreeing_share"] == 0.0
    assert numbers["positions"] == 4 * LENGTH
    assert "the store agrees with this teacher" in result.verdict
    if sampler.unbiased:
        # the fixed seed is not hunted for: |z| > 4 had a chance of 6e-5 for each of five samplers
        assert abs(numbers["z"]) < 4
        assert abs(numbers["z_excess"]) < 4
    else:
        assert numbers["z"] is None
    json.dumps(numbers, allow_nan=False)


@pytest.mark.parametrize(
    ("sampler", "thinned"),
    [*((sampler, 0) for sampler in UNBIASED if sampler != Threshold(5)), (Threshold(20), 1), (RandomSampling(20), 1)],
    ids=str,
)
def test_z_is_about_normal_whichever_seed_drew_the_store(tmp_path, sampler, thinned):
    """50 sequences of 32 positions: z has mean 0, within 5 standard errors, and mean square 1.

    50 times the mean square is chi-square: below 15 or above 115 with chances of 4e-7 and 5e-7, and a tenth more is
    allowed for skew and a variance that is estimated from 128 draws.
    """
    path = make_scored_store(tmp_path / "s0", sampler, sequences=50, length=32, seed=None, wrong=None, drawn_with=77)
    for generation in range(thinned):
        out = tmp_path / f"s{generation + 1}"
        thin_store(path, out, draws=4, seed=5 + generation, quiet=True)
        path = out
    result = rescore(path)
    z = np.array([score.z for score in result.scores])
    assert result.findings == []
    assert result.to_dict()["identical_share"] is None
    assert abs(z.mean()) < 5 * 0.141
    assert 15 < (z**2).sum() < 1.1 * 115
    # each |z_excess| is above 5 with a chance of at most 2 exp(-12.5), 7e-6
    assert max(abs(score.z_excess) for score in result.scores) < 5
    assert abs(result.total.z_excess) < 5


def permuted(tokens):
    """The same teacher with a tokenizer of the same size that gives the tokens other ids."""
    order = torch.randperm(TOKENIZER_SIZE, generator=torch.Generator().manual_seed(3))
    every = torch.cat([order, torch.arange(TOKENIZER_SIZE, VOCAB_SIZE)])
    return rows_after(every[tokens])[:, every]


#: what is wrong with the store, and with the teacher that runs again
CONTROLS = {
    "targets one position late": ({"shift": 1}, {}),
    "targets one position early": ({"shift": -1}, {}),
    "another revision": ({}, {"twist": 0.8}),
    "another teacher": ({}, {"twist": 8.0}),
    "another tokenizer of the same size": ({}, {"read": permuted}),
}


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("control", CONTROLS)
def test_what_is_wrong_is_found_clearly_though_no_seed_is_recorded(scored_store, sampler, control):
    of_store, of_teacher = CONTROLS[control]
    path = scored_store(sampler, seed=None, wrong=None, drawn_with=4, **of_store)
    result = rescore(path, teacher=toy_teacher(**of_teacher))
    assert [(finding.kind, finding.where) for finding in result.findings] == [("teacher-disagrees", "all sequences")]
    assert "does not agree" in result.verdict
    if sampler.unbiased:
        assert abs(result.total.z) > 10
        # importance weights of light tokens are noise to it
        assert result.total.z_excess > (3 if getattr(sampler, "proposal_power", 1.0) == 1.0 else 0)
        assert result.total.chance(result.bound) < FALSE_ALARM / 100
    else:
        assert result.to_dict()["disagreeing_share"] > 0.9


@pytest.mark.parametrize("sampler", ONE_OF_EACH, ids=str)
def test_one_sequence_out_of_line_is_named(tmp_path, sampler):
    path = make_scored_store(tmp_path / "s", sampler, sequences=12, length=64, wrong=[7], shift=1)
    findings = rescore(path).findings
    assert findings[0].kind == "teacher-disagrees"
    assert "7" in findings[0].where or "(1 of 12 sequences show it" in findings[0].message


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(12, 0.8)], ids=str)
def test_sequences_drawn_with_another_seed_are_named(tmp_path, sampler):
    path = make_scored_store(tmp_path / "s", sampler, sequences=12, length=100, drawn_with=5, wrong=[3, 8])
    result = rescore(path)
    assert {(f.kind, f.where) for f in result.findings} == {("seed-disagrees", f"sequence {i}") for i in (3, 8)}
    path = make_scored_store(tmp_path / "t", sampler, drawn_with=5, wrong=None)
    result = rescore(path)
    assert [(f.kind, f.where) for f in result.findings] == [("seed-disagrees", "all sequences")]
    assert "(4 of 4 sequences show it by themselves.)" in result.findings[0].message


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(20)], ids=str)
def test_a_teacher_that_is_less_sure_of_itself_shows_by_the_excess(scored_store, sampler):
    """Flatter and noisier, in proportions that leave no deviation: the excess shows it, though no seed is recorded."""

    def read(tokens):
        return rows_after(tokens) * 0.8 + 1.5 * torch.sin(3.1 * rows_after(tokens, twist=1.0))

    path = scored_store(sampler, sequences=12, seed=None, wrong=None, drawn_with=4)
    result = rescore(path, teacher=toy_teacher(read=read))
    assert [finding.kind for finding in result.findings] == ["teacher-disagrees"]
    assert result.total.z_excess > 10
    assert result.total.chance_of_excess < FALSE_ALARM / 1000


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(12, 0.8)], ids=str)
def test_a_teacher_that_is_nearly_the_same_shows_by_the_draws_of_the_seed(scored_store, sampler):
    path = scored_store(sampler)
    result = rescore(path, teacher=toy_teacher(twist=0.05))
    assert abs(result.total.z) < 5  # a divergence of .001 nats: too little for these positions
    assert [finding.kind for finding in result.findings] == ["teacher-disagrees"]
    assert "not the same" in result.findings[0].message


@pytest.mark.parametrize("sampler", ONE_OF_EACH, ids=str)
def test_last_bits_of_the_logits_are_no_finding(scored_store, sampler):
    path = scored_store(sampler)
    result = rescore(path, teacher=toy_teacher(twist=2e-5))
    assert result.findings == []
    assert result.to_dict()["identical_share"] > 0.99


@pytest.mark.parametrize("sampler", ONE_OF_EACH, ids=str)
def test_half_precision_is_no_finding_and_a_shift_of_it_is(scored_store, sampler):
    half = toy_teacher(dtype=torch.bfloat16)
    path = scored_store(sampler)
    result = rescore(path, teacher=half)
    assert result.findings == []
    path = scored_store(sampler, seed=None, wrong=None, drawn_with=4, shift=1)
    assert rescore(path, teacher=half).findings


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(20)], ids=str)
def test_thinnings_are_drawn_again_from_their_recorded_seeds(tmp_path, sampler):
    make_scored_store(tmp_path / "s", sampler)
    thin_store(tmp_path / "s", tmp_path / "t", draws=9, quiet=True)
    thin_store(tmp_path / "t", tmp_path / "u", draws=4, seed=31, quiet=True)
    for name in "tu":
        result = rescore(tmp_path / name)
        assert result.to_dict()["identical_share"] == 1.0
        assert result.findings == []
        wrong = rescore(tmp_path / name, teacher=toy_teacher(twist=0.8))
        assert [finding.kind for finding in wrong.findings] == ["teacher-disagrees"]
        assert wrong.total.z < -10


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(20)], ids=str)
def test_merged_stores_are_drawn_again_under_the_numbers_their_sequences_had(tmp_path, sampler):
    """Merged twice, and thinned afterwards; 12 sequences of 3 seeds."""
    for name, seed, length in (("a", 4, 100), ("b", 5, 120), ("c", 6, 110)):
        make_scored_store(tmp_path / name, sampler, seed=seed, length=length)
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "ab", quiet=True)
    merge_stores([tmp_path / "c", tmp_path / "ab"], tmp_path / "cab", quiet=True)
    thin_store(tmp_path / "cab", tmp_path / "cab9", draws=9, seed=3, quiet=True)
    for name in ("ab", "cab", "cab9"):
        result = rescore(tmp_path / name)
        assert result.findings == [], name
        assert result.to_dict()["identical_share"] == 1.0, name
    assert "seed 4 or seed 5 or seed 6 draws" in result.verdict
    assert rescore(tmp_path / "cab9", teacher=toy_teacher(twist=0.8)).total.z < -8


def test_another_seed_in_one_of_the_merged_stores_is_found(tmp_path):
    paths = [make_scored_store(tmp_path / "a", Threshold(20), length=100)]
    paths.append(make_scored_store(tmp_path / "b", Threshold(20), length=120, drawn_with=7, wrong=None))
    merge_stores(paths, tmp_path / "m", quiet=True)
    found = [(finding.kind, finding.where) for finding in rescore(tmp_path / "m").findings]
    assert found == [("seed-disagrees", f"sequence {index}") for index in range(4, 8)]


def test_a_merged_store_with_an_unknown_seed_is_judged_without(tmp_path):
    paths = [make_scored_store(tmp_path / "a", Threshold(20), length=100)]
    paths.append(make_scored_store(tmp_path / "b", Threshold(20), seed=None, drawn_with=7, wrong=None))
    merge_stores(paths, tmp_path / "m", quiet=True)
    result = rescore(tmp_path / "m")
    assert result.findings == []
    assert result.to_dict()["identical_share"] is None
