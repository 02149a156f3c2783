"""The texts that benchmarks on a real teacher read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

#: SHA-256 of the tokens at 4,096 positions, `pydoc` under Python 3.11
PINNED = {
    "pydoc": "e2004ed31e68c153253f59614ebd656fb700e8d7b961375e1d332bb16e1211a1",
    "newton": "f2ed19fff9b598e6b7536a1d47fe65a6f2cd4c8ec31b295a070ed3afc781a9b8",
}


def load_text(name: str) -> str:
    """Return Python's help topics (pydoc), the demo's text (newton), or a file's."""
    if name == "pydoc":
        from pydoc_data import topics

        return "\n\n".join(topics.topics[key] for key in sorted(topics.topics))
    if name == "newton":
        from logitstore.demo.run import TEXT

        return TEXT.read_text()
    return Path(name).read_text()


def sequences_of(text: str, tokenizer: Any, positions: int, seq_len: int) -> np.ndarray:
    """Return tokens [positions / seq_len, seq_len] int32, BOS first in each."""
    count = positions // seq_len
    ids = tokenizer.encode(text[: 40 * positions])[: count * (seq_len - 1)]
    if len(ids) < count * (seq_len - 1):
        raise SystemExit(f"the text has {len(ids)} tokens; {count * (seq_len - 1)} were wanted.")
    rows = np.asarray(ids, dtype=np.int32).reshape(count, seq_len - 1)
    return np.concatenate([np.full((count, 1), tokenizer.bos_id, np.int32), rows], axis=1)
