"""Compiling loops with numba, and keeping what was compiled where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Return `function` compiled on its first call; it runs without Python's lock.

    What was compiled is kept beside the source or in the user's cache folder (NUMBA_CACHE_DIR changes that). Where
    neither can be written, each process compiles for itself.
    """
    try:
        return cast(_Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # "cannot cache function: no locator available"
        return cast(_Function, numba.njit(nogil=True)(function))


def _drop_stale(folder: Path) -> None:
    """Delete what was compiled before the last change of a source in `folder`.

    numba looks at the file of the function that is called alone, but compiled code holds the functions and constants
    of other files too.
    """
    with suppress(OSError):
        newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
        for index in (folder / "__pycache__").glob("*.nbi"):
            if index.stat().st_mtime < newest:
                index.unlink(missing_ok=True)


_drop_stale(Path(__file__).parent)
