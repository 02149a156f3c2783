"""Whether a student can learn from a store: its vocabulary and its tokenizer."""

from __future__ import annotations

from typing import Any

from logitstore.errors import StoreError
from logitstore.store import Store
from logitstore.teachers.tokenizer import hash_tokenizer


def check_vocabulary(store: Store, vocab_size: int) -> None:
    """Raise StoreError, kind "alignment-mismatch", where the store has ids beyond `vocab_size` columns."""
    if vocab_size <= store.max_id:
        raise StoreError(
            f"the student's logits have {vocab_size} columns, and store {store.path} has token ids up to "
            f"{store.max_id}: {store.max_id + 1} or more are needed. Give the student the teacher's vocabulary "
            "(resize its embeddings), or build a store with a teacher that has the student's.",
            kind="alignment-mismatch",
        )


def check_tokenizer(store: Store, tokenizer: Any) -> None:
    """Raise StoreError, kind "alignment-mismatch", where a tokenizer is not known to be the store's."""
    stored, found = store.manifest.get("tokenizer_sha256"), hash_tokenizer(tokenizer)
    if stored is None:
        raise StoreError(
            f"store {store.path} does not say which tokenizer made its tokens, so the student's cannot be compared "
            "with it. If you know that they are the same, leave `tokenizer` out.",
            kind="alignment-mismatch",
        )
    if stored != found:
        raise StoreError(
            f"the student's tokenizer has SHA-256 {found}, the one store {store.path} was built with {stored}. The "
            "same ids would stand for other text. Use the teacher's tokenizer, or build a store with this one.",
            kind="alignment-mismatch",
        )
