"""One work unit: the teacher in front, the writer beside it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from logitstore.build.plan import Plan
from logitstore.build.sampling import PlannedSequence, TargetMaker
from logitstore.codec import FrequencyTable
from logitstore.store.frequency_table import read_store_table
from logitstore.store.pilot_file import read_pilot
from logitstore.store.plan_file import read_plan
from logitstore.store.storage import Storage
from logitstore.store.writer import UnitWriter
from logitstore.targets import SparseTargets

#: sequences the teacher may be ahead of the writer
_QUEUE_LENGTH = 8

#: called after each sequence with its positions, and the unit's entries and bytes so far
OnSequence = Callable[[int, UnitWriter], None]


@dataclass(frozen=True)
class Begun:
    """What stands of a store before its first unit.

    Attributes:
        storage: where it lies.
        plan: its units.
        manifest: its manifest.
        table: its frequency table.
        pilot: blobs of the sequences that ran to fit the table, by index; they do not run again.
    """

    storage: Storage
    plan: Plan
    manifest: dict[str, Any]
    table: FrequencyTable
    pilot: dict[int, bytes]

    @classmethod
    def at(cls, storage: Storage, plan: Plan, manifest: dict[str, Any]) -> Self:
        """Read what a store was begun with."""
        return cls(storage, plan, manifest, read_store_table(storage), read_pilot(storage))


def run_unit(store: Begun, unit: int, maker: TargetMaker, on_sequence: OnSequence) -> None:
    """Make and commit one unit; it may be repeated at any time, and gives the same bytes for the same logits.

    Raises:
        TeacherError, StoreError, InvalidInput: what the teacher or the writer raised; nothing of the unit stays.
    """
    start, stop = store.plan.bounds(unit)
    before = store.manifest.get("first_sequence", 0)
    planned = zip(range(before + start, before + stop), read_plan(store.storage, start, stop), strict=True)
    with UnitWriter(store.storage, unit, store.manifest, store.table) as writer:
        with _WriterThread(writer, on_sequence) as thread:
            for sequence, made in _in_order(planned, maker, store.pilot):
                thread.put(sequence, made)
        if writer.num_sequences != stop - start:
            raise AssertionError(f"unit {unit} has {writer.num_sequences} sequences, planned were {stop - start}")
        writer.commit()


def _in_order(
    planned: Iterable[tuple[int, PlannedSequence]], maker: TargetMaker, pilot: dict[int, bytes]
) -> Iterator[tuple[PlannedSequence, SparseTargets | bytes]]:
    """Yield each planned sequence with its targets, or with its blob where it is of the pilot."""
    met: deque[tuple[int, PlannedSequence]] = deque()

    def not_yet_run() -> Iterator[tuple[int, PlannedSequence]]:
        for index, sequence in planned:
            if index in pilot:
                met.append((index, sequence))
            else:
                yield index, sequence

    for index, sequence, targets in maker.targets(not_yet_run()):
        while met and met[0][0] < index:
            before, of_pilot = met.popleft()
            yield of_pilot, pilot[before]
        yield sequence, targets
    for before, of_pilot in met:
        yield of_pilot, pilot[before]


class _WriterThread:
    """Encodes and writes sequences beside the teacher. Its first error is raised where the next sequence is put."""

    def __init__(self, writer: UnitWriter, on_sequence: OnSequence) -> None:
        self._writer, self._on_sequence = writer, on_sequence
        self._queue: queue.Queue[tuple[PlannedSequence, SparseTargets | bytes] | None] = queue.Queue(_QUEUE_LENGTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="logitstore-writer", daemon=True)

    def put(self, sequence: PlannedSequence, made: SparseTargets | bytes) -> None:
        self._raise_error()
        self._queue.put((sequence, made))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # drain, so that the teacher never waits for a writer that has failed
            (tokens, starts), made = item
            try:
                if isinstance(made, bytes):
                    self._writer.append_blob(made, starts)
                else:
                    self._writer.append(tokens, made, starts)
                self._on_sequence(len(tokens), self._writer)
            except BaseException as error:
                self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise_error()
