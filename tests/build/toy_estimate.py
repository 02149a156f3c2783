"""A toy teacher and tokenizer, and an estimate of some data with them."""

import torch

from logitstore.build.estimate import estimate
from logitstore.teachers import ArrayTeacher
from tests.support.toy_teachers import VOCAB_SIZE, ByteTokenizer


def rows_after(tokens):
    """A causal toy teacher: Zipf-like logits [S, V] whose order depends on the last token alone."""
    ranks = (torch.arange(VOCAB_SIZE)[None, :] * 7 + tokens[:, None] * 31) % VOCAB_SIZE
    return -1.3 * torch.log(1.0 + ranks)


class CountingTeacher(ArrayTeacher):
    """Remembers every sequence that it was run on."""

    def __init__(self, change=None, **options):
        self.seen = []

        def function(tokens):
            self.seen.append(tokens[0].clone())
            logits = rows_after(tokens[0])
            return (logits if change is None else change(tokens[0], logits))[None]

        super().__init__(function, vocab_size=VOCAB_SIZE, name="toy", **options)

    @property
    def probed(self):
        """The sequences after the warm-up."""
        return self.seen[1:]


def run(*data, **options):
    defaults = {
        "teacher": CountingTeacher(),
        "tokenizer": ByteTokenizer(),
        "seq_len": 64,
        "positions": 200,
        "quiet": True,
    }
    return estimate(data=list(data), **defaults | options)
