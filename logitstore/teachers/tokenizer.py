"""The teacher's tokenizer, for turning text into tokens before the weights are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logitstore.teachers.checkpoint import Checkpoint
from logitstore.teachers.load_errors import translated
from logitstore.teachers.quiet import quiet, require_transformers
from logitstore.teachers.teacher_info import TeacherInfo, inspect_teacher

TOKENIZER_NAMES = ("tokenizer", "vocab", "merges.txt", "spiece.model", "sentencepiece", "tekken")
TOKENIZER_SUFFIXES = (".tiktoken", "tokenizer.model", "bpe.model")


def hash_tokenizer(tokenizer: Any) -> str:
    """Return a sha256 that two Hugging Face tokenizers share only if they turn text into the same tokens.

    Over the whole serialised tokenizer (vocabulary, merges, normalisation) and the special ids; truncation and
    padding are left out: calls and students change them, the padding token too, and no token of a text depends on them. Tokenizers in Python are hashed by their vocabulary.
    """
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk")}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        content = json.loads(backend.to_str())
        content["truncation"] = content["padding"] = None
    else:
        content = sorted(tokenizer.get_vocab().items())
    text = json.dumps([content, special], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class TeacherTokenizer:
    """A Hugging Face tokenizer that adds nothing of its own accord.

    Attributes:
        bos_id: id put first in every stored sequence; None where the tokenizer has none.
        eod_id: id that ends a document (the tokenizer's EOS); None where it has none.
        size: ids from 0 to `size` - 1 are tokens; the logits may be wider.
        sha256: of everything that decides which tokens a text becomes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eod_id: int | None = tokenizer.eos_token_id
        self.size = len(tokenizer)
        self.sha256 = hash_tokenizer(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, without BOS or EOS, however long it is."""
        # verbose: a text longer than the context is no reason to warn, packing cuts it
        encoded = self.tokenizer(
            text, add_special_tokens=False, truncation=False, verbose=False, return_attention_mask=False
        )
        ids: list[int] = encoded["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens included."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Return each id as people read it: its text with leading spaces, or its internal name where it has none.

        Ids without a token, such as padding columns of the logits, become "<id 262143>".
        """
        return [self._token_string(int(token)) for token in ids]

    def _token_string(self, token: int) -> str:
        piece = self.tokenizer.convert_ids_to_tokens(token) if 0 <= token < self.size else None
        if piece is None:
            return f"<id {token}>"
        if "▁" in piece:  # SentencePiece's space, which decoding a single token would drop
            return str(piece).replace("▁", " ")
        text = self.decode([token])
        # part of a character decodes to the replacement character
        return text if text and "\ufffd" not in text else str(piece)


def load_tokenizer(
    model: str | Path,
    *,
    gguf_file: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    info: TeacherInfo | None = None,
) -> TeacherTokenizer | None:
    """Return the teacher's tokenizer, or None where the checkpoint comes without one.

    Args:
        model: folder, single .gguf file, or repository on the Hugging Face hub.
        gguf_file: name of the GGUF file in that folder or repository.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that comes with the checkpoint.
        info: what `inspect_teacher` returned for the same teacher, which saves reading its config again.

    Raises:
        TeacherError, InvalidInput: as `inspect_teacher`; kind "teacher-unreadable" for a damaged tokenizer.
    """
    if info is None:
        info = inspect_teacher(model, gguf_file=gguf_file, revision=revision, trust_remote_code=trust_remote_code)
    checkpoint = info.checkpoint
    transformers = require_transformers(gguf=checkpoint.gguf_file is not None)
    with translated(checkpoint, "tokenizer"), quiet():
        options = info.options()
        if checkpoint.gguf_file is None and not _has_tokenizer_files(checkpoint, options):
            return None
        loader = transformers.AutoTokenizer
        if checkpoint.gguf_file is not None:
            # AutoTokenizer would parse the whole file once more only to learn the class from the config
            found = transformers.TOKENIZER_MAPPING.get(type(info.config), None)
            loader = found if hasattr(found, "from_pretrained") else loader
        tokenizer = loader.from_pretrained(checkpoint.model, **options)
        return TeacherTokenizer(tokenizer) if _has_vocabulary(tokenizer) else None


def _has_tokenizer_files(checkpoint: Checkpoint, options: dict[str, Any]) -> bool:
    if checkpoint.is_local:
        names = [file.name for file in Path(checkpoint.model).iterdir()]
    elif options["local_files_only"]:
        return True  # what the cache lacks may exist on the hub: let loading say so
    else:
        from huggingface_hub import HfApi

        names = HfApi().list_repo_files(checkpoint.model, revision=options["revision"])
    return any(name.startswith(TOKENIZER_NAMES) or name.endswith(TOKENIZER_SUFFIXES) for name in names)


def _has_vocabulary(tokenizer: Any) -> bool:
    """Say whether there is more than special tokens: without vocabulary files some classes make an empty one."""
    return bool(set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens))
