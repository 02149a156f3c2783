"""The teacher that a store records, for those that go on with the store or look at it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.build.options import Tokenizer
from logitstore.errors import InvalidInput
from logitstore.progress import Progress
from logitstore.teachers import Teacher, inspect_teacher, load_teacher, load_tokenizer
from logitstore.teachers.hugging_face import DTYPES


@dataclass(frozen=True)
class TeacherSource:
    """Where a teacher is to be found.

    Attributes:
        model: hub id or local folder.
        options: gguf_file, revision, trust_remote_code.
        dtype: as `load_teacher` takes it.
    """

    model: str | Path
    options: dict[str, Any]
    dtype: Any

    @classmethod
    def of(
        cls,
        manifest: Mapping[str, Any],
        where: str,
        *,
        model: str | Path | None = None,
        options: Mapping[str, Any],
        dtype: str = "auto",
        at_commit: bool = False,
    ) -> TeacherSource:
        """Return where the teacher of a store is, or the one that was named instead.

        Args:
            manifest: the store's.
            where: the store, for messages.
            model: hub id or local folder; None for the one that the manifest names.
            options: gguf_file, revision and trust_remote_code, as the caller chose them.
            dtype: "auto" for the recorded one.
            at_commit: the recorded commit is wanted, wherever its branch stands now; else the recorded revision, and
                whoever asks compares the commit.

        Raises:
            InvalidInput: no teacher is named, and the manifest has none that can be loaded.
        """
        found = manifest.get("teacher")
        recorded: dict[str, Any] = found if isinstance(found, dict) else {}
        chosen = dict(options)
        if model is None:
            model = recorded.get("id")
            if not isinstance(model, str) or recorded.get("model_type") == "function":
                raise InvalidInput(
                    f"the manifest of {where} names no teacher that can be loaded (teacher: {recorded or None!r}). Give "
                    "it by --teacher (teacher=)."
                )
            revision = recorded.get("revision")
            revision = recorded.get("commit") or revision if at_commit else revision
            chosen["gguf_file"] = chosen["gguf_file"] or recorded.get("gguf_file")
            chosen["revision"] = chosen["revision"] or revision
        if dtype == "auto" and recorded.get("dtype") in DTYPES:
            dtype = recorded["dtype"]
        return cls(model, chosen, dtype)

    def load(self, device: str, *, quiet: bool) -> tuple[Teacher, Tokenizer | None]:
        """Return the teacher, ready to run, and its tokenizer.

        Raises:
            TeacherError: it cannot be loaded.
        """
        with Progress(f"loading {self.model}", 1, unit="teacher", quiet=quiet) as progress:
            info = inspect_teacher(self.model, **self.options)
            tokenizer = load_tokenizer(self.model, **self.options, info=info)
            teacher = load_teacher(self.model, **self.options, dtype=self.dtype, device=device, info=info)
            progress.advance()
        return teacher, tokenizer
