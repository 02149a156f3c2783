"""Stores of a toy teacher that has heads and tails, made sequence by sequence, right or wrong in one thing."""

from types import SimpleNamespace

import numpy as np
import torch

from logitstore.samplers import RandomSampling, Threshold, TopK, TopP
from logitstore.store import create_store
from logitstore.teachers import ArrayTeacher

VOCAB_SIZE = 300
#: columns from here on belong to no token
TOKENIZER_SIZE = 297
LENGTH = 160
UNBIASED = [Threshold(20), Threshold(5), RandomSampling(20), RandomSampling(12, 0.8), RandomSampling(12, 1.3)]
SAMPLERS = [*UNBIASED, TopK(20), TopP(0.9), TopP(0.9, 4)]


def rows_after(tokens, *, twist=0.0, width=VOCAB_SIZE):
    """Causal logits [S, V], flat at some positions and peaked at others; `twist` makes another teacher of them."""
    previous = torch.cat([tokens[:1] * 0, tokens[:-1]])
    mix = ((tokens * 31 + previous * 17)[:, None] + torch.arange(width)[None, :] * 7).float()
    return torch.sin(mix) * 12 * torch.cos(tokens.float())[:, None].abs() + twist * torch.sin(3.1 * mix)


def toy_teacher(*, width=VOCAB_SIZE, read=None, dtype=torch.float32, **change):
    """A teacher; `read` turns the tokens and logits into those of a teacher with other ids."""

    def function(tokens):
        logits = rows_after(tokens[0], width=width, **change) if read is None else read(tokens[0])
        return logits[None]

    return ArrayTeacher(function, vocab_size=width, name="toy", dtype=dtype)


def tokenizer_of(sha256):
    return SimpleNamespace(sha256=sha256, size=TOKENIZER_SIZE, bos_id=None, eod_id=2, encode=None)


def draw(tokens, sampler, *, seed, index, shift=0, twist=0.0, masked_from=TOKENIZER_SIZE, width=VOCAB_SIZE):
    """Return the targets of a sequence; those of position t belong to position t - shift, where `shift` is not 0."""
    logits = rows_after(tokens, twist=twist, width=width)
    logits[:, masked_from:] = -float("inf")
    return sampler(logits.roll(shift, 0), seed=seed, index=index)


def make_scored_store(path, sampler, *, sequences=4, seed=4, drawn_with=None, wrong=(), length=LENGTH, **change):
    """Write a store of random tokens.

    Args:
        path: its folder.
        sampler: what draws its targets.
        sequences: how many.
        seed: what the manifest records; None for nothing.
        drawn_with: the seed that really drew the sequences in `wrong`.
        wrong: which sequences `change` and `drawn_with` hold for; all, where it is None.
        length: tokens of a sequence.
        change: see `draw`.
    """
    rng = np.random.default_rng(0)
    recorded = {} if seed is None else {"seed": seed}
    options = {"vocab_size": change.get("width", VOCAB_SIZE), "tokenizer_size": TOKENIZER_SIZE, "eod_id": 2}
    with create_store(path, sampler=sampler, tokenizer_sha256="a", **options, **recorded) as writer:
        for index in range(sequences):
            tokens = torch.from_numpy(rng.integers(0, TOKENIZER_SIZE, length).astype(np.int64))
            is_wrong = wrong is None or index in wrong
            really = drawn_with if drawn_with is not None and is_wrong else seed
            more = change if is_wrong else {}
            writer.append(tokens.numpy(), draw(tokens, sampler, seed=really, index=index, **more))
    return path
