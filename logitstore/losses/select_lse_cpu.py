"""`select_lse` and its gradient on the CPU: chunks of rows that stay in cache, scratch memory that is used again."""

# T positions, V vocabulary, E entries (CSR; id -1 is padding), R rows of a chunk, n rows of this chunk

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from logitstore.losses.huge_pages import empty_in_huge_pages
from logitstore.losses.select_lse_reference import IGNORED_LABEL, SelectLse, has_entries

#: logits of a chunk, 2 MB in float32; smaller ones pay for calls, larger ones for the cache they do not fit
CHUNK_LOGITS = 2**19
#: exp2 takes half the time of exp in torch's CPU kernels
_LOG2_E = 1 / math.log(2)
#: the largest logit that is subtracted from a row: an infinite one would leave NaN where logsumexp has an infinity
_HIGHEST = 1e38


class _Chunk(NamedTuple):
    """Rows `rows` of the logits, their entries, and their logits in the dtype to compute in, [n, V] contiguous."""

    rows: slice
    entries: slice
    values: Tensor


class _Chunks:
    """The chunks that have a target at all, one after the other; `values` of one are gone when the next comes.

    Attributes:
        dtype: to compute in.
        has_padding: whether an id is -1.
        valid: positions that have an entry, [T] bool.
        all_valid: whether all have.
        places: of each entry in its chunk's `values.view(-1)`, [E] int32.
        label_places: the same of each label, [T] int64.
    """

    def __init__(
        self, logits: Tensor, offsets: Tensor, ids: Tensor, labels: Tensor | None, softcap: float, *, copy: bool
    ) -> None:
        num_positions, vocab_size = logits.shape
        self._logits, self._offsets, self._num_entries, self._softcap = logits, offsets, len(ids), softcap
        self.dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self._num_rows = max(1, min(num_positions, CHUNK_LOGITS // vocab_size))
        needs_copy = copy or softcap > 0 or logits.dtype != self.dtype or not logits.is_contiguous()
        self._copy = self.scratch() if needs_copy else None
        counts = offsets.diff()
        self.has_padding = len(ids) > 0 and bool(ids.amin() < 0)
        self.valid = has_entries(offsets, ids) if self.has_padding else counts > 0
        self.all_valid = bool(self.valid.all())
        # int32 is enough within a chunk, and fresh [E] memory costs more than what is computed in it
        row_starts = torch.arange(num_positions, dtype=torch.int32) % self._num_rows * vocab_size
        self.places = torch.repeat_interleave(row_starts, counts, output_size=len(ids))
        self.places += ids.clamp(min=0) if self.has_padding else ids
        self.label_places = row_starts if labels is None else row_starts + labels.clamp(min=0)

    def scratch(self) -> Tensor:
        """Return new memory for the values of one chunk, [R, V]."""
        return self._logits.new_empty((self._num_rows, self._logits.shape[1]), dtype=self.dtype)

    def __iter__(self) -> Iterator[_Chunk]:
        bounds = [*self._offsets[:: self._num_rows].tolist(), self._num_entries]
        for index, start in enumerate(range(0, len(self._logits), self._num_rows)):
            rows = slice(start, min(start + self._num_rows, len(self._logits)))
            if self.all_valid or bool(self.valid[rows].any()):
                yield _Chunk(rows, slice(bounds[index], bounds[index + 1]), self._values(rows))

    def finish(self, grad: Tensor, rows: slice, values: Tensor) -> None:
        """Turn the gradient at s into that at the logits, in place, and make it 0 in skipped rows."""
        if self._softcap:
            grad.addcmul_(grad, values.div_(self._softcap).square_(), value=-1.0)
        if not self.all_valid:
            grad.masked_fill_(~self.valid[rows, None], 0.0)

    def _values(self, rows: slice) -> Tensor:
        if self._copy is None:
            return self._logits[rows]
        values = self._copy[: rows.stop - rows.start].copy_(self._logits[rows])
        return values.div_(self._softcap).tanh_().mul_(self._softcap) if self._softcap else values


class _Powers:
    """exp((value - base) / temperature) of rows, as 2^(scale * value + shift) but for a factor of each row.

    One multiply-add an element takes the place of a difference and a product. What the rounded `shift` lacks is the
    same in a whole row, and is made good by `factor`.

    Attributes:
        shift: [T] in the dtype of the values.
    """

    def __init__(self, base: Tensor, temperature: float, dtype: torch.dtype) -> None:
        self._base = base.double()
        self._scale = torch.tensor(_LOG2_E / temperature, dtype=dtype).item()
        self.shift = (-self._scale * self._base).to(dtype)

    @property
    def factor(self) -> Tensor:
        """What the powers of each row are still to be multiplied by, [T] float64."""
        return torch.exp2(-self._scale * self._base - self.shift.double())

    def write(self, values: Tensor, rows: slice, out: Tensor) -> Tensor:
        """Write the powers of `values`, which are rows `rows`, into `out`."""
        return torch.add(self.shift[rows, None], values, alpha=self._scale, out=out).exp2_()


def select_lse_cpu(
    logits: Tensor,
    offsets: Tensor,
    ids: Tensor,
    labels: Tensor | None,
    temperature: float,
    softcap: float,
    with_mean: bool,
) -> SelectLse:
    """Return what `select_lse_reference` returns, without memory beyond a few chunks."""
    num_positions = len(logits)
    chunks = _Chunks(logits, offsets, ids, labels, softcap, copy=False)
    scratch = chunks.scratch()

    def zeros(length: int) -> Tensor:
        return torch.zeros(length, dtype=chunks.dtype)

    highest, sums = zeros(num_positions), zeros(num_positions)
    sums_one = zeros(0 if temperature == 1 else num_positions)
    mean, selected = zeros(num_positions if with_mean else 0), zeros(len(ids))
    label_logits = zeros(0 if labels is None else num_positions)
    for rows, entries, values in chunks:
        top = torch.amax(values, 1, out=highest[rows]).clamp_(-_HIGHEST, _HIGHEST)
        # after a pass over the chunk, which brings it near: single logits fetched from memory took 4 times as long
        flat = values.view(-1)
        torch.index_select(flat, 0, chunks.places[entries], out=selected[entries])
        if labels is not None:
            torch.index_select(flat, 0, chunks.label_places[rows], out=label_logits[rows])
        if with_mean:
            torch.mean(values, 1, out=mean[rows])
        for part_sums, part_temperature in ((sums, temperature), (sums_one, 1.0)):
            if len(part_sums):
                powers = _Powers(top, part_temperature, chunks.dtype)
                part = powers.write(values, slice(None), scratch[: len(values)])
                torch.sum(part, 1, out=part_sums[rows])
    lse_one = _log_sums(sums_one, highest, 1.0) if len(sums_one) else sums_one.double()
    if chunks.has_padding:
        selected.masked_fill_(ids < 0, 0.0)
    if labels is not None:
        label_logits.masked_fill_(labels == IGNORED_LABEL, 0.0)
    found = SelectLse(
        _log_sums(sums, highest, temperature), lse_one, mean.double(), selected.double(), label_logits.double()
    )
    if not chunks.all_valid:
        for by_position in (found.lse, found.lse_one, found.mean, found.label_logits):
            if len(by_position):
                by_position.masked_fill_(~chunks.valid, 0.0)
    return found


def select_lse_backward_cpu(
    logits: Tensor,
    offsets: Tensor,
    ids: Tensor,
    labels: Tensor | None,
    temperature: float,
    softcap: float,
    lse: Tensor,
    lse_one: Tensor,
    selected: Tensor,
    label_logits: Tensor,
    d_lse: Tensor,
    d_lse_one: Tensor,
    d_mean: Tensor,
    d_selected: Tensor,
    d_label: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """Return what `select_lse_backward_reference` returns, without memory beyond the gradient and a few chunks.

    Each value is computed in float32 (float64 for float64 logits) and rounded once, entries and labels included.
    """
    grad = empty_in_huge_pages(logits.shape, logits.dtype) if out is None else out
    two_accumulators = temperature != 1 and bool(d_lse_one.any())
    chunks = _Chunks(logits, offsets, ids, labels, softcap, copy=two_accumulators and out is not None)
    softmaxes = [_ScaledSoftmax(lse * temperature, temperature, d_lse / temperature, chunks)]
    if two_accumulators:
        softmaxes.append(_ScaledSoftmax(lse_one, 1.0, d_lse_one, chunks))
    at_ids = (torch.where(ids >= 0, d_selected, 0.0) if chunks.has_padding else d_selected).to(chunks.dtype)
    at_labels = None if labels is None else torch.where(labels != IGNORED_LABEL, d_label, 0.0).to(chunks.dtype)
    everywhere = (d_mean / logits.shape[1]).to(chunks.dtype)[:, None]
    in_place = grad.dtype == chunks.dtype and grad.is_contiguous()
    scratch = None if in_place else chunks.scratch()
    if not chunks.all_valid:
        grad[~chunks.valid] = 0.0  # chunks without a target are not visited
    for rows, entries, values in chunks:
        part = grad[rows] if scratch is None else scratch[: len(values)]
        for softmax in softmaxes:
            softmax.put(values, rows, part, add=softmax is not softmaxes[0])
        if len(everywhere):
            part += everywhere[rows]
        flat = part.view(-1).index_add_(0, chunks.places[entries], at_ids[entries])
        if at_labels is not None:
            flat.index_add_(0, chunks.label_places[rows], at_labels[rows])
        chunks.finish(part, rows, values)
        if scratch is not None:
            grad[rows] = part
    return grad


class _ScaledSoftmax:
    """Rows of scale * exp((value - base) / temperature); `base` and `scale` are [T] float64."""

    def __init__(self, base: Tensor, temperature: float, scale: Tensor, chunks: _Chunks) -> None:
        self._powers = _Powers(base, temperature, chunks.dtype)
        self._scale = (scale * self._powers.factor).to(chunks.dtype)[:, None]
        self._chunks = chunks
        self._scratch: Tensor | None = None

    def put(self, values: Tensor, rows: slice, out: Tensor, *, add: bool) -> None:
        """Write what `values`, which are rows `rows`, come to into `out`, or add it; `out` may be `values`."""
        if not add:
            self._powers.write(values, rows, out).mul_(self._scale[rows])
            return
        if self._scratch is None:
            self._scratch = self._chunks.scratch()
        out.addcmul_(self._powers.write(values, rows, self._scratch[: len(values)]), self._scale[rows])


def _log_sums(sums: Tensor, highest: Tensor, temperature: float) -> Tensor:
    """Return the log-sum-exp of each row, [T] float64, from sums of powers below its highest value."""
    factor = _Powers(highest, temperature, highest.dtype).factor
    return highest.double() / temperature + (sums.double() * factor).log()
