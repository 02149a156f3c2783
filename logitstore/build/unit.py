"""One work unit: the teacher in front, the writer beside it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from logitstore.build.plan import Plan
from logitstore.build.sampling import PlannedSequence, TargetMaker
from logitstore.store.layout import PLAN
from logitstore.store.plan_file import read_plan
from logitstore.store.writer import UnitWriter
from logitstore.targets import SparseTargets

#: sequences the teacher may be ahead of the writer
_QUEUE_LENGTH = 8

#: called after each sequence with its positions, and the unit's entries and bytes so far
OnSequence = Callable[[int, UnitWriter], None]


def run_unit(
    root: Path, unit: int, plan: Plan, manifest: dict[str, Any], maker: TargetMaker, on_sequence: OnSequence
) -> None:
    """Make and commit one unit; it may be repeated at any time, and gives the same bytes for the same logits.

    Raises:
        TeacherError, StoreError, InvalidInput: what the teacher or the writer raised; nothing of the unit stays.
    """
    start, stop = plan.bounds(unit)
    with UnitWriter(root, unit, manifest) as writer:
        with _WriterThread(writer, on_sequence) as thread:
            for sequence, targets in maker.targets(read_plan(root / PLAN, start, stop), start):
                thread.put(sequence, targets)
        if writer.num_sequences != stop - start:
            raise AssertionError(f"unit {unit} has {writer.num_sequences} sequences, planned were {stop - start}")
        writer.commit()


class _WriterThread:
    """Encodes and writes sequences beside the teacher. Its first error is raised where the next sequence is put."""

    def __init__(self, writer: UnitWriter, on_sequence: OnSequence) -> None:
        self._writer, self._on_sequence = writer, on_sequence
        self._queue: queue.Queue[tuple[PlannedSequence, SparseTargets] | None] = queue.Queue(_QUEUE_LENGTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="logitstore-writer", daemon=True)

    def put(self, sequence: PlannedSequence, targets: SparseTargets) -> None:
        self._raise_error()
        self._queue.put((sequence, targets))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # drain, so that the teacher never waits for a writer that has failed
            (tokens, starts), targets = item
            try:
                self._writer.append(tokens, targets, starts)
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
