"""The error tree: each error has a stable `kind` that a handler can act on, and an exit code for the shell."""

from __future__ import annotations

from typing import Any


class LogitstoreError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        kind: stable, hyphenated name of what went wrong, such as "checksum-mismatch".
        exit_code: what the command line returns: 2 when nothing was started, 1 when work failed or data is damaged.
    """

    default_kind = "error"
    #: kinds that are found before any work is done
    refused_kinds: frozenset[str] = frozenset()

    def __init__(self, text: str, *, kind: str | None = None) -> None:
        super().__init__(text)
        self.kind = kind or self.default_kind

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.kind)

    @property
    def exit_code(self) -> int:
        return 2 if self.kind in self.refused_kinds else 1


class InvalidInput(LogitstoreError, ValueError):  # noqa: N818 - the name is part of the interface
    """The caller's slip: an argument, an option or a data file that cannot be used. Nothing was done."""

    default_kind = "invalid-input"

    @property
    def exit_code(self) -> int:
        return 2


class StoreError(LogitstoreError):
    """A store is missing, unfinished, damaged, of another format, or differs from what was asked for."""

    default_kind = "store-error"
    refused_kinds = frozenset(
        {
            "exists",
            "not-a-store",
            "not-sealed",
            "newer-format",
            "unsupported-format",
            "settings-differ",
            "alignment-mismatch",
            "disk-too-small",
            "extra-missing",
            "missing-bucket",
            "no-create-once",
        }
    )


class TeacherError(LogitstoreError):
    """A teacher cannot be loaded, or its logits cannot be used."""

    default_kind = "teacher-error"
    refused_kinds = frozenset(
        {"teacher-missing", "teacher-gated", "not-a-causal-lm", "context-too-short", "extra-missing"}
    )


def _rebuild(cls: type[LogitstoreError], text: str, kind: str) -> LogitstoreError:
    return cls(text, kind=kind)
