"""The frequency table of a store: what its entropy coder expects. Frozen before the first blob is written."""

# V ids, N listed ids, C cells

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from logitstore.codec.arrays import ID_LIMIT, SequenceArrays, WeightForm
from logitstore.codec.classes import NUM_CLASSES
from logitstore.codec.contexts import NUM_CONTEXTS
from logitstore.codec.rules import check_form_and_scale
from logitstore.codec.table_file import TableParts, corrupt_table, from_file, to_content, to_file
from logitstore.errors import InvalidInput

#: frequencies of a context add up to 2^12
PRECISION = 12
TOTAL = 1 << PRECISION
MAX_LISTED_IDS = 300_000
MAX_CELLS = 4096
#: no table is larger
MAX_TABLE_BYTES = 1_000_000


@dataclass(frozen=True, eq=False)
class FrequencyTable:
    """Order of the ids, their cells, and the frequencies of every context.

    Attributes:
        form: form of the weights that the table is for.
        scale: scale that the table is for.
        vocab_size: V; every token and id is below it.
        listed_ids: the ids of the first ranks, [N] int32; the other ids follow in ascending order.
        cell_widths: cell c holds the next 2^cell_widths[c] ranks, [C] uint8.
        frequencies: [NUM_CONTEXTS, NUM_CLASSES] uint16; each row adds up to 4,096, a class with 0 cannot be stored.

    Raises:
        InvalidInput: the parts do not make a table.
    """

    form: WeightForm
    scale: int
    vocab_size: int
    listed_ids: NDArray[np.int32]
    cell_widths: NDArray[np.uint8]
    frequencies: NDArray[np.uint16]

    def __post_init__(self) -> None:
        check_form_and_scale(self.form, self.scale)
        check_vocab_size(self.vocab_size)
        ids = self.listed_ids
        if len(ids) > MAX_LISTED_IDS or ids.min(initial=0) < 0 or ids.max(initial=-1) >= self.vocab_size:
            raise InvalidInput(
                f"a frequency table lists {len(ids)} ids up to {ids.max(initial=0)}; at most {MAX_LISTED_IDS}, below "
                f"{self.vocab_size}, were wanted."
            )
        if len(np.unique(ids)) != len(ids):
            raise InvalidInput("a frequency table lists an id twice.")
        widths = self.cell_widths.astype(np.int64)
        if not 1 <= len(widths) <= MAX_CELLS or widths.max() > 20 or (1 << widths).sum() != self.vocab_size:
            raise InvalidInput(
                f"a frequency table has {len(widths)} cells that do not make up its {self.vocab_size} ids; 1 to "
                f"{MAX_CELLS} cells were wanted."
            )
        sums = self.frequencies.sum(axis=1, dtype=np.int64)
        if self.frequencies.shape != (NUM_CONTEXTS, NUM_CLASSES) or (sums != TOTAL).any():
            raise InvalidInput(f"the frequencies of a context do not add up to {TOTAL}.")

    @classmethod
    def fit(cls, samples: Iterable[SequenceArrays], *, vocab_size: int, form: WeightForm, scale: int) -> FrequencyTable:
        """Return the table for sequences like `samples`: a pilot of some dozen, or none at all.

        Any sequence of this form, scale and vocabulary can be stored with any such table; a table that was fitted to
        others costs bytes, not correctness.

        Args:
            samples: sequences as they are going to be stored.
            vocab_size: V, up to 2^20.
            form: form of all the samples.
            scale: scale of all the samples.
        Raises:
            InvalidInput: a sample breaks a rule of `SequenceArrays`, or has another form, scale or vocabulary.
        """
        from logitstore.codec.fit import fit_table

        return fit_table(list(samples), vocab_size=vocab_size, form=form, scale=scale)

    @cached_property
    def _content(self) -> bytes:
        parts = (self.form, self.scale, self.vocab_size, self.listed_ids, self.cell_widths, self.frequencies)
        return to_content(TableParts(*parts))

    def to_bytes(self) -> bytes:
        """Return the table's file, at most `MAX_TABLE_BYTES` long."""
        return to_file(self._content)

    @classmethod
    def from_bytes(cls, file: bytes) -> Self:
        """Return the table of a file, all of it checked.

        Raises:
            StoreError: kind "corrupt-table", or "newer-format".
        """
        parts = from_file(file, MAX_LISTED_IDS, MAX_CELLS)
        try:
            return cls(*parts)
        except InvalidInput as error:
            raise corrupt_table(str(error).rstrip(".")) from error

    @cached_property
    def sha256(self) -> str:
        """The table's name: SHA-256 of its content, the file before compression, in hexadecimal."""
        return hashlib.sha256(self._content).hexdigest()

    @cached_property
    def short_hash(self) -> bytes:
        """The first 4 bytes of `sha256`, which every blob carries."""
        return bytes.fromhex(self.sha256[:8])

    @cached_property
    def id_of_rank(self) -> NDArray[np.int32]:
        """Every id by rank, [V]."""
        unlisted = np.ones(self.vocab_size, np.bool_)
        unlisted[self.listed_ids] = False
        return np.concatenate([self.listed_ids, np.flatnonzero(unlisted).astype(np.int32)])

    @cached_property
    def rank_of_id(self) -> NDArray[np.int32]:
        """Rank of every id, [V]."""
        ranks = np.empty(self.vocab_size, np.int32)
        ranks[self.id_of_rank] = np.arange(self.vocab_size, dtype=np.int32)
        return ranks

    @cached_property
    def cell_starts(self) -> NDArray[np.int32]:
        """First rank of each cell, [C]."""
        sizes = 1 << self.cell_widths.astype(np.int64)
        return np.asarray(np.cumsum(sizes) - sizes, np.int32)

    @cached_property
    def cell_of_rank(self) -> NDArray[np.int32]:
        """Cell of every rank, [V]."""
        return np.repeat(np.arange(len(self.cell_widths), dtype=np.int32), 1 << self.cell_widths.astype(np.int64))

    @cached_property
    def slots(self) -> NDArray[np.uint8]:
        """Class that each of a context's 4,096 slots belongs to, [NUM_CONTEXTS, 4096]."""
        classes = np.tile(np.arange(NUM_CLASSES, dtype=np.uint8), NUM_CONTEXTS)
        return np.repeat(classes, self.frequencies.reshape(-1)).reshape(NUM_CONTEXTS, TOTAL)

    @cached_property
    def spans(self) -> NDArray[np.uint32]:
        """First slot of each class in the upper 16 bits, its frequency in the lower, [NUM_CONTEXTS, NUM_CLASSES]."""
        wide = self.frequencies.astype(np.uint32)
        return (np.cumsum(wide, axis=1, dtype=np.uint32) - wide) << np.uint32(16) | wide


def check_vocab_size(vocab_size: int) -> None:
    """Raise InvalidInput where a vocabulary is empty or too large."""
    if not 1 <= vocab_size <= ID_LIMIT:
        raise InvalidInput(f"the vocabulary has {vocab_size} ids; 1 to {ID_LIMIT} was wanted.")


def check_table_fits(table: FrequencyTable, form: Any, scale: int) -> None:
    """Raise InvalidInput where a table is for another form or scale."""
    if (table.form, table.scale) != (form, scale):
        raise InvalidInput(
            f"the frequency table is for {table.form.name} of scale {table.scale}; {WeightForm(form).name} of scale "
            f"{scale} was wanted."
        )
