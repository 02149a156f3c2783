"""Help with a build that another process has begun."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from logitstore.build.maker import maker_of
from logitstore.build.plan import made_by_build, plan_of
from logitstore.build.recorded_teacher import TeacherSource
from logitstore.build.run_units import run_units
from logitstore.build.unit import Begun
from logitstore.errors import StoreError
from logitstore.store import Store, open_store
from logitstore.store.layout import PLAN, SEALED
from logitstore.store.manifest import check_same_settings, read_manifest
from logitstore.store.storage import open_storage
from logitstore.teachers import Teacher


def join_build(
    path: str | os.PathLike[str],
    *,
    teacher: str | Path | Teacher | None = None,
    gguf_file: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    quiet: bool = False,
) -> Store:
    """Work on the units of a store that `build` has begun, beside it and any other helpers, until all are committed.

    All settings are the store's, and its tokens are there: no data is read. Whoever comes last seals the store. Returns
    it, sealed.

    Args:
        path: folder of the store, or `s3://bucket/name`.
        teacher: the same teacher as the store's; by default where its manifest says.
        gguf_file: name of the GGUF file in the teacher's folder.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run the checkpoint's own model code.
        batch_size: sequences run at once; by default as many as fit.
        dtype: as the store's, or "auto".
        device: "auto", "cpu", "cuda", ...
        quiet: no progress on stderr.

    Raises:
        StoreError: kind "not-a-store"; "settings-differ", where the teacher is another one.
        TeacherError: the teacher cannot be loaded, or its logits are NaN or infinite.
    """
    storage = open_storage(path)
    manifest = read_manifest(storage)
    if storage.exists(SEALED):
        return open_store(storage)
    if not made_by_build(manifest):
        raise StoreError(
            f"{storage.url} was begun by create_store, thin or merge; only one process can go on with it.",
            kind="not-a-build",
        )
    if not storage.exists(PLAN):
        raise StoreError(
            f"{storage.url} was repaired and waits for its data: run `logitstore build {storage.url} ... --resume` first.",
            kind="not-a-build",
        )
    running: Teacher
    if teacher is None or isinstance(teacher, str | Path):
        options = {"gguf_file": gguf_file, "revision": revision, "trust_remote_code": trust_remote_code}
        source = TeacherSource.of(manifest, storage.url, model=teacher, options=options, dtype=dtype)
        running, _ = source.load(device, quiet=quiet)
    else:
        running = teacher
    check_same_settings(storage, manifest, manifest | {"teacher": running.provenance()})
    store = Begun.at(storage, plan_of(manifest), manifest)
    run_units(store, maker_of(manifest, running, batch_size), quiet=quiet)
    return open_store(storage)
