"""What a teacher's config says, so that a bad teacher is refused before any data is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logitstore.errors import TeacherError
from logitstore.teachers.checkpoint import Checkpoint, find_checkpoint
from logitstore.teachers.load_errors import translated
from logitstore.teachers.quiet import quiet, require_transformers
from logitstore.teachers.sequences import check_context

#: the names under which architectures keep their context length
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


@dataclass(frozen=True)
class TeacherInfo:
    """A teacher's config, in the words of this package.

    Attributes:
        checkpoint: where it is.
        commit: commit on the hub that the config came from; None for a local teacher.
        model_type: such as "gemma3_text".
        logits_width: V, as the config has it; `HuggingFaceTeacher.logits_width` is measured.
        context_length: longest sequence in tokens; None where the architecture has no limit.
        dtype: the checkpoint's own, such as "bfloat16"; None where the config does not say.
        config: transformers' config object, kept because a GGUF file takes seconds to parse.
    """

    checkpoint: Checkpoint
    commit: str | None
    model_type: str
    logits_width: int
    context_length: int | None
    dtype: str | None
    config: Any = field(repr=False, compare=False)

    @property
    def is_local(self) -> bool:
        return self.checkpoint.is_local

    def check_seq_len(self, seq_len: int) -> None:
        """Raise TeacherError of kind "context-too-short" where `seq_len` is beyond the context length."""
        check_context(seq_len, self.context_length, str(self.checkpoint))

    def options(self) -> dict[str, Any]:
        """Return the checkpoint's `from_pretrained` options, held to the commit the config came from."""
        options = self.checkpoint.options()
        if "revision" in options and self.commit:
            options["revision"] = self.commit
        return options


def inspect_teacher(
    model: str | Path, *, gguf_file: str | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> TeacherInfo:
    """Return what the teacher's config says, without reading weights.

    Args:
        model: folder, single .gguf file, or repository on the Hugging Face hub.
        gguf_file: name of the GGUF file in that folder or repository.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        TeacherError: kinds "teacher-missing", "teacher-gated", "not-a-causal-lm", "teacher-unreadable",
            "extra-missing".
        InvalidInput: several GGUF files and no word which, or code of its own that was not allowed.
    """
    checkpoint = find_checkpoint(model, gguf_file=gguf_file, revision=revision, trust_remote_code=trust_remote_code)
    transformers = require_transformers(gguf=checkpoint.gguf_file is not None)
    # a GGUF file is config and weights in one, so this is when it is downloaded
    with translated(checkpoint, "config"), quiet(downloads=checkpoint.gguf_file is not None):
        config = transformers.AutoConfig.from_pretrained(checkpoint.model, **checkpoint.options())
        _check_causal(config, checkpoint, transformers.MODEL_FOR_CAUSAL_LM_MAPPING)
        text = config.get_text_config(decoder=True)
        return TeacherInfo(
            checkpoint=checkpoint,
            commit=getattr(config, "_commit_hash", None),
            model_type=config.model_type,
            logits_width=int(text.vocab_size),
            context_length=_context_length(text),
            dtype=_dtype(config) or _dtype(text),
            config=config,
        )


def _check_causal(config: Any, checkpoint: Checkpoint, mapping: Any) -> None:
    """Refuse what the config gives away; a model that only behaves non-causally is caught when it is loaded."""
    architectures = list(getattr(config, "architectures", None) or [])
    if getattr(config, "is_encoder_decoder", False):
        found = "an encoder-decoder"
    elif type(config) not in mapping and "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}):
        found = "a model without a causal language-model head"
    elif _is_encoder(config, architectures, mapping):
        found = "an encoder that sees the tokens after a position"
    else:
        return
    names = f" ({', '.join(architectures)})" if architectures else ""
    raise TeacherError(
        f"teacher {checkpoint} is {found}: model type {config.model_type}{names}. A causal language model was wanted, "
        "which predicts each next token from the tokens before it.",
        kind="not-a-causal-lm",
    )


def _is_encoder(config: Any, architectures: list[str], mapping: Any) -> bool:
    """Say whether this is BERT or its like, saved as what it is.

    `is_decoder` alone does not tell: GPT-NeoX is a decoder and has it false.
    """
    if getattr(config, "is_decoder", True) or not architectures or type(config) not in mapping:
        return False
    return mapping[type(config)].__name__ not in architectures


def _context_length(config: Any) -> int | None:
    for name in CONTEXT_FIELDS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _dtype(config: Any) -> str | None:
    dtype = getattr(config, "dtype", None)
    return None if dtype is None else str(dtype).removeprefix("torch.")
