"""A tokenizer of bytes, and teachers that are functions of a few tokens."""

import torch

from logitstore.teachers import ArrayTeacher

VOCAB_SIZE, TOKENIZER_SIZE = 300, 260


class ByteTokenizer:
    """Bytes as tokens, shifted past the special ones."""

    bos_id, eod_id, size, sha256 = 1, 2, TOKENIZER_SIZE, "bytes"

    def encode(self, text):
        return [byte + 3 for byte in text.encode()]


def rows_after(tokens, vocab_size=VOCAB_SIZE):
    """A causal toy teacher: logits [S, V] that depend on the last two tokens of the prefix, and on nothing else."""
    previous = torch.cat([tokens[:1] * 0, tokens[:-1]])
    mix = (tokens * 31 + previous * 17)[:, None] + torch.arange(vocab_size)[None, :] * 7
    return torch.sin(mix.float()) * 4


def toy_teacher(change=None, context_length=None, vocab_size=VOCAB_SIZE):
    """`rows_after` as a teacher, which reads one sequence at a time; `change` may see and change its logits."""

    def function(tokens):
        logits = rows_after(tokens[0], vocab_size)
        return (logits if change is None else change(logits))[None]

    return ArrayTeacher(function, vocab_size=vocab_size, name="toy", context_length=context_length)
