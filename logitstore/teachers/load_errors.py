"""What transformers and the hub raise, said in this package's kinds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from logitstore.errors import InvalidInput, LogitstoreError, TeacherError
from logitstore.teachers.checkpoint import Checkpoint


@contextmanager
def translated(checkpoint: Checkpoint, part: str) -> Iterator[None]:
    """Turn whatever goes wrong while `part` of the checkpoint is read into a TeacherError or InvalidInput.

    transformers raises OSError, ValueError, KeyError, RuntimeError and its formats' own types for the same causes;
    the causes are told apart by the chain of exceptions behind them.
    """
    try:
        yield
    except LogitstoreError:
        raise
    except Exception as error:
        raise _translate(error, checkpoint, part) from error


def _translate(error: Exception, checkpoint: Checkpoint, part: str) -> LogitstoreError:
    hub_error = None if checkpoint.is_local else _translate_hub(error, checkpoint, part)
    if hub_error is not None:
        return hub_error
    text = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in text:
        return InvalidInput(
            f"teacher {checkpoint} comes with Python code of its own, which runs with your rights. Read it, then "
            "allow it with --trust-remote-code (trust_remote_code=True)."
        )
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return TeacherError(
            f"teacher {checkpoint} does not fit into memory: {text[:200]} Try dtype bfloat16, another device or a "
            "smaller teacher."
        )
    return TeacherError(
        f"the {part} of teacher {checkpoint} cannot be read: {type(error).__name__}: {text[:400]} The file may be "
        "damaged or incomplete, or newer than the installed transformers.",
        kind="teacher-unreadable",
    )


def _translate_hub(error: Exception, checkpoint: Checkpoint, part: str) -> TeacherError | None:
    from huggingface_hub import errors

    chain = list(_chain(error))

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    model = checkpoint.model
    if among(errors.GatedRepoError):
        return TeacherError(
            f"teacher {model} is gated: accept its terms on its page of the Hugging Face hub, then log in with "
            "`hf auth login`.",
            kind="teacher-gated",
        )
    if among(errors.RepositoryNotFoundError):
        found = f"there is no teacher {model}: neither a local path nor a repository on the Hugging Face hub"
        return TeacherError(f"{found} (a private one needs `hf auth login`).", kind="teacher-missing")
    if among(errors.RevisionNotFoundError):
        return TeacherError(f"teacher {model} has no revision {checkpoint.revision}.", kind="teacher-missing")
    # the hub's client has changed its HTTP library between versions; each has its own errors for a lost connection
    lost = any(type(link).__module__.startswith(("httpx", "httpcore", "requests")) for link in chain)
    if lost or among(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError):
        return TeacherError(
            f"teacher {model} is neither a local path nor in the download cache, and the Hugging Face hub cannot be "
            "reached (no network, or HF_HUB_OFFLINE is set). Give a path, or download it where there is a network.",
            kind="teacher-missing",
        )
    # transformers takes an absent config.json for an empty one, and says that it recognises no model in it
    no_config = part == "config" and (isinstance(error, OSError) or "Unrecognized model" in str(error))
    if no_config or among(errors.EntryNotFoundError):
        wanted = checkpoint.gguf_file or "config.json of a model"
        return TeacherError(f"repository {model} on the hub has no {wanted}.", kind="teacher-missing")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
