"""More data for a sealed store: a new generation of it, made with its settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from logitstore.build.local import run_build
from logitstore.build.options import BuildOptions, Follows, Tokenizer
from logitstore.build.plan import made_by_build
from logitstore.build.recorded_teacher import TeacherSource
from logitstore.errors import StoreError
from logitstore.samplers import sampler_from_dict
from logitstore.store import Store, open_store
from logitstore.store.layout import MANIFEST, generation_name
from logitstore.store.storage import open_storage
from logitstore.teachers import Teacher


@dataclass(frozen=True)
class _Request:
    """What a caller of `append_store` chose; see there."""

    data: Sequence[str | os.PathLike[str]]
    text_field: str | None
    tokens_field: str | None
    teacher: str | Path | Teacher | None
    tokenizer: Tokenizer | None
    more: dict[str, Any]


def append_store(
    path: str | os.PathLike[str],
    *,
    data: Sequence[str | os.PathLike[str]],
    text_field: str | None = None,
    tokens_field: str | None = None,
    teacher: str | Path | Teacher | None = None,
    tokenizer: Tokenizer | None = None,
    gguf_file: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    limit_tokens: int | None = None,
    batch_size: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    workers: int = 1,
    resume: bool = False,
    quiet: bool = False,
) -> Store:
    """Run the store's teacher over more data, and add what it says to the store. Returns the store, opened anew.

    Teacher, tokenizer, packing, sampler, statistics and seed are the store's. Sequence indices go on where it ends, so
    that no random number is used twice. What is new is built beside the old as `build` does it, and is there all at
    once when it is sealed; who has the store open goes on with what was there.

    Args:
        path: a sealed store that `build` made.
        data: see `build`.
        text_field: field or column with the text; by default the store's.
        tokens_field: field or column with token ids; by default the store's.
        teacher: the same teacher as the store's; by default where its manifest says.
        tokenizer: the tokenizer of a teacher that is given as an object.
        gguf_file: name of the GGUF file in the teacher's folder.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run the checkpoint's own model code.
        limit_tokens: append the first so many tokens only.
        batch_size: see `build`.
        dtype: as the store's, or "auto".
        device: see `build`.
        workers: see `build`.
        resume: go on with an unfinished append of the same data; a finished one is left as it is.
        quiet: no progress on stderr.

    Raises:
        StoreError: kind "not-a-build", the store was not made by `build`; "settings-differ", the teacher or tokenizer
            is another one; "exists", an append is unfinished and `resume` is not set; as `build` otherwise.
        InvalidInput, TeacherError: as `build`.
    """
    store = Store(open_storage(path), to_go_on=True)
    if not made_by_build(store.manifest):
        raise StoreError(
            f"{store.path} was not made by a teacher over data files, so there is no saying how to go on with it. Build "
            "another store of the new data.",
            kind="not-a-build",
        )
    source = {"gguf_file": gguf_file, "revision": revision, "trust_remote_code": trust_remote_code}
    run = {"batch_size": batch_size, "device": device, "workers": workers, "quiet": quiet, "dtype": dtype}
    request = _Request(
        data, text_field, tokens_field, teacher, tokenizer, source | run | {"limit_tokens": limit_tokens}
    )
    number = len(store.generations)
    place = store.storage.below(generation_name(number))
    if resume and number > 1 and not place.exists(MANIFEST) and _is_last(store, request):
        return store
    run_build(place, _options(store, request, resume), Follows.of(store, number))
    return open_store(path)


def _is_last(store: Store, request: _Request) -> bool:
    """Return whether what is asked for was appended last, and is complete."""
    number = len(store.generations) - 1
    place = store.generations[number].storage
    try:
        run_build(place, _options(store, request, resume=True), Follows.of(store, number))
    except StoreError as error:
        if error.kind != "settings-differ":
            raise
        return False
    return True


def _options(store: Store, request: _Request, resume: bool) -> BuildOptions:
    manifest, packing, more = store.manifest, store.manifest["packing"], dict(request.more)
    teacher = request.teacher
    if teacher is None or isinstance(teacher, str | Path):
        own = {name: more[name] for name in ("gguf_file", "revision", "trust_remote_code")}
        source = TeacherSource.of(manifest, str(store.path), model=teacher, options=own, dtype=more["dtype"])
        teacher, more = source.model, more | source.options | {"dtype": source.dtype}
    fields: dict[str, Any] = {"text_field": request.text_field or manifest["text_field"] or "text"}
    if request.text_field is None:
        fields["tokens_field"] = request.tokens_field or manifest["tokens_field"]
    return BuildOptions(
        teacher=teacher,
        data=request.data,
        tokenizer=request.tokenizer,
        seq_len=packing["seq_len"],
        pack=packing["pack"],
        bos=manifest["bos_id"] is not None,
        sampler=sampler_from_dict(manifest["sampler"]),
        teacher_temperature=manifest["teacher_temperature"],
        statistics=tuple(manifest["statistics"]),
        probability_bits=manifest.get("probability_bits", 8),
        seed=manifest["seed"],
        resume=resume,
        **fields,
        **more,
    )
