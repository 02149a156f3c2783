"""The teacher that the options name: looked at first, loaded when the data is ready."""

from __future__ import annotations

from pathlib import Path

from logitstore.build.options import BuildOptions, Tokenizer
from logitstore.build.staging import Packing
from logitstore.progress import Progress
from logitstore.teachers import HuggingFaceTeacher, Teacher, TeacherInfo, inspect_teacher, load_teacher, load_tokenizer


def inspect_source(options: BuildOptions) -> tuple[TeacherInfo | None, Tokenizer | None, int]:
    """Return the teacher's config, its tokenizer and how many ids it knows, without loading its weights."""
    if not isinstance(options.teacher, str | Path):
        return None, options.tokenizer, options.teacher.logits_width
    info = inspect_teacher(options.teacher, **options.source)
    if options.pack:
        info.check_seq_len(options.seq_len)
    return info, load_tokenizer(options.teacher, **options.source, info=info), info.logits_width


def packing_of(options: BuildOptions, tokenizer: Tokenizer | None) -> Packing:
    """Return how the options want documents to become sequences."""
    bos_id = tokenizer.bos_id if tokenizer is not None and options.bos else None
    eod_id = tokenizer.eod_id if tokenizer is not None else None
    return Packing(options.seq_len, options.pack, bos_id, eod_id, options.limit_tokens)


def load_source(options: BuildOptions, info: TeacherInfo | None, longest: int) -> Teacher:
    """Return the teacher, ready to run; `longest` is the number of tokens of the longest sequence.

    Raises:
        TeacherError: it cannot be loaded; kind "context-too-short".
    """
    teacher = options.teacher
    if isinstance(teacher, str | Path):
        with Progress(f"loading {teacher}", 1, unit="teacher", quiet=options.quiet) as progress:
            loaded: HuggingFaceTeacher = load_teacher(
                teacher, **options.source, dtype=options.dtype, device=options.device, info=info
            )
            progress.advance()
        teacher = loaded
    teacher.check_seq_len(max(longest, options.seq_len if options.pack else 1))
    return teacher


def masked_columns(teacher: Teacher, tokenizer_size: int | None) -> int | None:
    """Return the first column of the logits that belongs to no token; None where all belong to one."""
    return tokenizer_size if tokenizer_size is not None and tokenizer_size < teacher.logits_width else None
