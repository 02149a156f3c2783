"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

#: seconds between plain lines, where there is no terminal
LINE_EVERY_S = 5.0


def say(text: str, *, quiet: bool) -> None:
    """Print a line to stderr, unless quiet."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


class Progress:
    """Counts towards a total and shows it on stderr; use it in a `with` statement."""

    def __init__(
        self, title: str, total: int | None, *, unit: str, stream: TextIO | None = None, quiet: bool = False
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        on_terminal = self._stream.isatty() and not quiet
        self._bar = tqdm(total=total, desc=title, unit=f" {unit}", file=self._stream) if on_terminal else None
        self._begin = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def set_total(self, total: int) -> None:
        """Say how much there is, where that was not known at the start."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Count `amount` more; `note` is shown beside the count."""
        self.done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif self._quiet:
            return
        elif time.monotonic() - self._last_line >= LINE_EVERY_S or self.done == self.total:
            self._last_line = time.monotonic()
            seconds = self._last_line - self._begin
            tail = f", {note}" if note else ""
            rate = self.done / max(seconds, 1e-9)
            of_total = f"/{self.total}" if self.total is not None else ""
            left = f", {(self.total - self.done) / rate:.0f} s left" if self.total is not None and rate > 0 else ""
            text = f"{self.title}: {self.done}{of_total} {self.unit}, {seconds:.0f} s, {rate:.1f} {self.unit}/s{left}{tail}"
            print(text, file=self._stream, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
