"""Errors on their way out of a DataLoader's worker process.

PyTorch rebuilds an exception from its type and one text that holds the worker's whole traceback: the `kind` is lost and
the message buried. A note on the exception travels inside that traceback, so both can be restored from it.
"""

from __future__ import annotations

import json
from typing import NoReturn

from logitstore.errors import LogitstoreError

_NOTE = "logitstore error: "


def note_for_transport(error: LogitstoreError) -> None:
    """Attach message and kind to an error that is about to leave a worker process."""
    error.add_note(_NOTE + json.dumps({"text": str(error), "kind": error.kind}))


def raise_restored(error: LogitstoreError) -> NoReturn:
    """Raise the error as it was in the worker process, or `error` itself where it did not come out of one."""
    _, found, note = str(error).rpartition(_NOTE)
    if not found:
        raise error
    # its traceback holds a reference cycle, which would keep the workers until they are killed after some seconds; the
    # worker's own traceback is in its text
    raise type(error)(**json.loads(note.splitlines()[0])) from error.with_traceback(None)
