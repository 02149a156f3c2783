"""transformers without its progress bars, log lines and warnings."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

from logitstore.errors import TeacherError


def require_transformers(*, gguf: bool = False) -> Any:
    """Import and return transformers.

    Args:
        gguf: what reading GGUF files takes is needed as well.

    Raises:
        TeacherError: kind "extra-missing", naming what to install.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers
    except ImportError as error:
        raise _extra_missing("transformers", "a Hugging Face teacher") from error
    for package in ("gguf", "accelerate") if gguf else ():
        if importlib.util.find_spec(package) is None:
            raise _extra_missing(package, "a GGUF teacher")
    return transformers


def _extra_missing(package: str, purpose: str) -> TeacherError:
    return TeacherError(
        f"{purpose} needs the package {package}, which is not installed: pip install 'logitstore[hf]'.",
        kind="extra-missing",
    )


@contextmanager
def quiet(*, downloads: bool = False, stderr: bool = True) -> Iterator[None]:
    """Silence transformers and the hub's client, and put their settings back afterwards.

    Args:
        downloads: keep the hub's progress bars: weights may take minutes to come.
        stderr: leave standard error alone. The bar of the GGUF reader obeys no setting, so it takes False.
    """
    import huggingface_hub
    from transformers.utils import logging as transformers_logging

    hub: Any = huggingface_hub.utils
    logging: Any = transformers_logging
    transformers_verbosity, hub_verbosity = logging.get_verbosity(), hub.logging.get_verbosity()
    had_bars, had_hub_bars = logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    with warnings.catch_warnings(), nullcontext() if stderr else redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        hub.logging.set_verbosity_error()
        logging.disable_progress_bar()
        if downloads and had_hub_bars:
            hub.enable_progress_bars()
        try:
            yield
        finally:
            if had_bars:
                logging.enable_progress_bar()
            (hub.enable_progress_bars if had_hub_bars else hub.disable_progress_bars)()
            logging.set_verbosity(transformers_verbosity)
            hub.logging.set_verbosity(hub_verbosity)
