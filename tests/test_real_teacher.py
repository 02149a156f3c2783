"""The whole path on the real teacher: build, stats, verify, inspect, open_store and a direct run agree."""

import json

import pytest
import torch

import logitstore
from logitstore.cli.main import run
from logitstore.codec import probability_error
from logitstore.demo.teacher import packaged_teacher
from logitstore.samplers import RandomSampling, Threshold
from tests.samplers.unbiasedness import DRAWS, MAX_Z, SEED, largest_z

pytestmark = pytest.mark.teacher

K = 20
TEXT = "The colours of natural bodies arise from their reflecting some sorts of rays more copiously than others. " * 20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return packaged_teacher(tmp_path_factory.mktemp("teacher"), echo=lambda text: None)


@pytest.fixture(scope="module")
def store_path(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    (folder / "text.txt").write_text(TEXT)
    arguments = ["build", str(folder / "store"), "--teacher", str(place.model), "--gguf-file", place.gguf_file]
    arguments += ["--data", str(folder / "text.txt"), "--seq-len", "96", "--limit-tokens", "240"]
    assert run([*arguments, "--sampler", "top-k", "--k", str(K), "--quiet"]) == 0
    return folder / "store"


@pytest.fixture(scope="module")
def direct_probabilities(place, store_path):
    """The teacher run by transformers itself on the stored tokens."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        place.model, gguf_file=place.gguf_file, dtype=torch.float32
    )
    model.eval()
    with torch.inference_mode():
        return [
            torch.softmax(model(sequence.tokens[None].long()).logits[0].double(), -1)
            for sequence in logitstore.open_store(store_path)
        ]


def ask(capsys, *arguments):
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_view_of_the_store_agrees(store_path, capsys):
    statistics = ask(capsys, "stats", store_path)
    assert ask(capsys, "verify", store_path) == {"clean": True, "findings": []}
    store = logitstore.open_store(store_path)
    assert statistics["sequences"] == len(store) == 3
    assert statistics["tokens"] == sum(len(sequence.tokens) for sequence in store) == 240
    assert statistics["entries"] == sum(sequence.targets.num_entries for sequence in store) == 240 * K
    assert statistics["vocab_size"] == store.manifest["vocab_size"] == 262_144
    assert all(int(sequence.tokens[0]) == store.manifest["bos_id"] == 2 for sequence in store)
    shown = ask(capsys, "inspect", store_path, "--sequence", 2, "--position", 40)
    entries = store[2].targets.slice(40, 41)
    assert sorted(shown["ids"]) == entries.ids.tolist()
    assert shown["next_token"] == int(store[2].tokens[41])


def test_the_entries_are_the_teachers_largest(store_path, direct_probabilities):
    for sequence, probabilities in zip(logitstore.open_store(store_path), direct_probabilities, strict=True):
        dense = sequence.targets.to_dense(probabilities.shape[1]).double()
        kept = dense > 0
        assert bool((kept.sum(1) == K).all())
        errors = (dense[kept] - probabilities[kept]).abs().tolist()
        # stored within the format's error of 8 bits; batching moves float32 logits by some 1e-5
        allowed = [probability_error(p, 255) + 1e-3 * p for p in probabilities[kept].tolist()]
        assert all(error <= bound for error, bound in zip(errors, allowed, strict=True))
        least_kept = torch.where(kept, probabilities, 1.0).min(1).values
        most_left = torch.where(kept, 0.0, probabilities).max(1).values
        assert bool((most_left <= least_kept * (1 + 1e-4)).all())


@pytest.mark.parametrize("sampler", [Threshold(20), RandomSampling(50)], ids=str)
def test_the_teachers_distributions_are_sampled_without_bias(direct_probabilities, sampler):
    # an uncertain position and a confident one
    entropies = torch.special.entr(direct_probabilities[1]).sum(1)
    for position in (int(entropies.argmax()), int(entropies.argmin())):
        logits = direct_probabilities[1][position].log().float()
        p = torch.softmax(logits.double(), -1)
        assert largest_z(sampler(logits.expand(DRAWS, -1), seed=SEED), p, sampler.draws) < MAX_Z
