"""Write the golden stores of the present format version: `python -m tests.store.make_golden_stores`, by hand, once.

Each case is a store, `<case>/store`, and what it holds, `<case>/sequences.json`; floats stand there by their bits. A case
that exists is never written again: old stores must stay readable.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from logitstore.samplers import RandomSampling, Threshold, TopK
from logitstore.store import create_store, open_store
from logitstore.store.layout import FORMAT_VERSION
from logitstore.targets import SparseTargets, concatenate_targets

FOLDER = Path(__file__).parent / "golden" / f"format-{FORMAT_VERSION}"
VOCAB_SIZE = 5003
LENGTHS = [40, 1, 200, 7]

SAMPLERS = {
    "threshold": Threshold(20),
    "random-sampling": RandomSampling(50),
    "random-sampling-tempered": RandomSampling(12, 0.8),
    "top-k": TopK(9),
}


def golden_sequences(sampler):
    """Yield fixed tokens and targets; the third sequence has masked positions."""
    for index, length in enumerate(LENGTHS):
        place = torch.arange(length)[:, None] * 31 + index * 101
        logits = 6 * torch.sin((place * 17 + torch.arange(VOCAB_SIZE)[None] * 7) % 9973 / 97.0)
        targets = sampler(logits, seed=3, index=index)
        if index == 2:
            targets = concatenate_targets([targets.slice(0, 50), masked(10, targets), targets.slice(60, length)])
        if sampler.name in ("threshold", "top-k"):
            roots = torch.arange(1, length + 1, dtype=torch.float32).rsqrt()
            targets = replace(targets, teacher_entropy=1 / roots, label_probability=roots, top1_probability=roots)
        yield ((torch.arange(length) * 37 + index) % 400).numpy(), targets


def masked(length, like):
    head_counts = None if like.head_counts is None else torch.zeros(length, dtype=torch.int32)
    offsets, ids = torch.zeros(length + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
    return SparseTargets(offsets, ids, torch.zeros(0), head_counts=head_counts, sampler=like.sampler)


def to_json(sequence):
    """Return what a sequence holds."""
    targets = sequence.targets
    floats = {"weights": targets.weights} | {name: v for name, v in targets.statistics.items() if v is not None}
    return {
        "tokens": sequence.tokens.tolist(),
        "document_starts": sequence.document_starts.tolist(),
        "offsets": targets.offsets.tolist(),
        "ids": targets.ids.tolist(),
        "head_counts": None if targets.head_counts is None else targets.head_counts.tolist(),
        **{name: values.view(torch.int32).tolist() for name, values in floats.items()},
    }


def write_golden(folder=FOLDER):
    """Write every case into `folder`; raises FileExistsError where it is there."""
    folder.mkdir(parents=True)
    for name, sampler in SAMPLERS.items():
        options = {"vocab_size": VOCAB_SIZE, "sampler": sampler, "sequences_per_shard": 3}
        with create_store(folder / name / "store", **options, tokenizer_sha256="golden", bos_id=0, seed=3) as writer:
            for tokens, targets in golden_sequences(sampler):
                writer.append(tokens, targets, document_starts=range(0, len(tokens), 30))
        stored = [to_json(sequence) for sequence in open_store(folder / name / "store")]
        text = json.dumps(stored, separators=(",", ":"))
        (folder / name / "sequences.json").write_text(text + "\n")


if __name__ == "__main__":
    write_golden()
