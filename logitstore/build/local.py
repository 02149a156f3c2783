"""Build a store on this machine: the teacher runs once, its sparse distributions stay."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from logitstore.build.documents import find_data_files
from logitstore.build.maker import maker_of
from logitstore.build.options import DEFAULT_SAMPLER, BuildOptions, Follows, Tokenizer
from logitstore.build.pilot import run_pilot
from logitstore.build.plan import Plan, make_plan
from logitstore.build.run_units import is_sealed, run_units, unless_sealed
from logitstore.build.staging import Packing, Staged, recall_data, stage_data
from logitstore.build.teacher_source import inspect_source, load_source, packing_of
from logitstore.build.unit import Begun
from logitstore.build.workers import check_workers, helpers
from logitstore.progress import say
from logitstore.samplers.statistics import check_statistics
from logitstore.store import Store, open_store
from logitstore.store.convert import PROBABILITY_BITS, probability_fields
from logitstore.store.layout import MANIFEST, PLAN, SCAFFOLDING
from logitstore.store.manifest import check_same_settings, new_manifest, read_manifest, to_bytes
from logitstore.store.recover import INTENT, prepare_resume
from logitstore.store.staging import publish_folder, staging_folder
from logitstore.store.storage import LocalStorage, Storage, open_storage
from logitstore.store.writer import committed_units, refuse_existing
from logitstore.targets import Sampler
from logitstore.teachers import Teacher


def build(
    path: str | os.PathLike[str],
    *,
    teacher: str | Path | Teacher,
    data: Sequence[str | os.PathLike[str]],
    tokenizer: Tokenizer | None = None,
    gguf_file: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    text_field: str = "text",
    tokens_field: str | None = None,
    seq_len: int = 1024,
    pack: bool = True,
    bos: bool = True,
    sampler: Sampler = DEFAULT_SAMPLER,
    teacher_temperature: float = 1.0,
    statistics: Sequence[str] = (),
    probability_bits: int = PROBABILITY_BITS,
    limit_tokens: int | None = None,
    batch_size: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    seed: int = 0,
    workers: int = 1,
    resume: bool = False,
    quiet: bool = False,
) -> Store:
    """Run the teacher over the data once, and store its sparse targets. Returns the sealed store.

    The data is read, tokenised and packed first; the store's folder appears when that is done and holds everything
    that is needed to go on. Work is committed unit by unit: after any stop, the same call with `resume=True` redoes
    only what was not committed.

    Args:
        path: folder of the store, or `s3://bucket/name`; must not exist, unless `resume`.
        teacher: Hugging Face hub id or local folder (safetensors or GGUF) of a causal language model, or any
            `logitstore.teachers.Teacher`.
        data: .txt, .jsonl and .parquet files, folders and globs; read in sorted path order.
        tokenizer: the tokenizer of a teacher that is given as an object; else the checkpoint's own.
        gguf_file: name of the GGUF file in the teacher's folder.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run the checkpoint's own model code.
        text_field: field or column with the text.
        tokens_field: field or column with token ids, instead of text.
        seq_len: tokens of a sequence, BOS included.
        pack: join documents into full sequences, each document followed by the end-of-document token; else every
            document is kept apart.
        bos: start every sequence with the tokenizer's BOS, where it has one.
        sampler: what is kept of each distribution; `Threshold(draws=20)` by default.
        teacher_temperature: the logits are divided by it before sampling.
        statistics: what to store of each position beside its entries, exact from the teacher's full (tempered)
            distribution: "entropy", "label_probability", "top1_probability". With the entropy a true KL can be
            reported, with the others the teacher's loss and calibration.
        probability_bits: how exactly the probabilities of top-k and top-p are stored, 8 to 16 bits each; the weights
            of other samplers are stored exactly.
        limit_tokens: store the first so many tokens only.
        batch_size: sequences run at once; by default as many as fit.
        dtype: "auto", "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda", ...
        seed: key of the sampling.
        workers: processes of this machine that run the teacher, each on units of its own. More processes, here or on
            other machines, may join at any time: `logitstore build STORE --join`, `logitstore.build.join.join_build`.
        resume: go on with an unfinished store of the same settings; a finished one is left as it is.
        quiet: no progress and no projection on stderr.

    Raises:
        InvalidInput: an option or a data file cannot be used.
        TeacherError: the teacher cannot be loaded, or its logits are NaN or infinite.
        StoreError: kind "exists", "settings-differ", "disk-too-small", "disk-full", "unwritable".
    """
    chosen = BuildOptions(
        teacher=teacher,
        data=data,
        tokenizer=tokenizer,
        gguf_file=gguf_file,
        revision=revision,
        trust_remote_code=trust_remote_code,
        text_field=text_field,
        tokens_field=tokens_field,
        seq_len=seq_len,
        pack=pack,
        bos=bos,
        sampler=sampler,
        teacher_temperature=teacher_temperature,
        statistics=statistics,
        probability_bits=probability_bits,
        limit_tokens=limit_tokens,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        seed=seed,
        workers=workers,
        resume=resume,
        quiet=quiet,
    )
    return run_build(open_storage(path), chosen)


def run_build(storage: Storage, chosen: BuildOptions, follows: Follows | None = None) -> Store:
    """Build or resume a store, or a generation that follows others; see `build`."""
    chosen.check()
    check_workers(chosen)
    _check_place(storage, chosen.resume)
    files = find_data_files(chosen.data)
    info, tokenizer, vocab_size = inspect_source(chosen)
    packing = packing_of(chosen, tokenizer)
    with staging_folder(storage) as folder:
        staged = _recalled(storage, files, chosen) or stage_data(
            folder,
            files,
            packing,
            encode=None if tokenizer is None else tokenizer.encode,
            vocab_size=vocab_size,
            text_field=chosen.text_field,
            tokens_field=chosen.tokens_field,
            quiet=chosen.quiet,
        )
        if staged.empty_documents:
            say(f"{staged.empty_documents} documents without text were left out.", quiet=chosen.quiet)
        plan = make_plan(staged.totals.sequences, staged.totals.tokens)
        running = load_source(chosen, info, staged.longest)
        manifest = _manifest(chosen, running, tokenizer, packing, staged, plan)
        if follows is not None:
            follows.check(storage, manifest)
            manifest |= follows.fields
        maker = maker_of(manifest, running, chosen.batch_size, chosen.sampler)
        if storage.exists(MANIFEST):
            manifest = _resumed(storage, manifest)
            if not is_sealed(storage):
                with unless_sealed(storage):
                    prepare_resume(storage, folder / PLAN)
        else:
            run_pilot(chosen, storage, LocalStorage(folder), manifest, maker, staged)
            LocalStorage(folder).create(MANIFEST, to_bytes(manifest))
            publish_folder(folder, storage)
    if not is_sealed(storage):
        done = len(committed_units(storage))
        if done:
            say(f"{done} of {plan.num_units} units are committed already.", quiet=chosen.quiet)
        with helpers(storage, chosen):
            run_units(Begun.at(storage, plan, manifest), maker, quiet=chosen.quiet)
    else:
        storage.remove_below(SCAFFOLDING)  # a stop right after the seal may have left it
        say(f"{storage.url} is complete.", quiet=chosen.quiet)
    return open_store(storage)


def _check_place(storage: Storage, resume: bool) -> None:
    if not (resume and storage.exists(MANIFEST)):
        refuse_existing(storage)


def _recalled(storage: Storage, files: list[Path], chosen: BuildOptions) -> Staged | None:
    """Return what pass 0 found, where it need not be run again: the plan is there, or no longer needed."""
    if not storage.exists(MANIFEST):
        return None
    # a repair that was cut off may be about to remove the plan
    has_plan = storage.exists(PLAN) and not storage.exists(INTENT)
    if not (has_plan or is_sealed(storage)):
        return None
    return recall_data(read_manifest(storage), files, quiet=chosen.quiet)


def _manifest(
    options: BuildOptions, teacher: Teacher, tokenizer: Tokenizer | None, packing: Packing, staged: Staged, plan: Plan
) -> dict[str, Any]:
    return new_manifest(
        vocab_size=teacher.logits_width,
        sampler=options.sampler.to_dict(),
        teacher_temperature=options.teacher_temperature,
        statistics=check_statistics(options.statistics),
        seed=options.seed,
        teacher=teacher.provenance(),
        tokenizer_sha256=None if tokenizer is None else tokenizer.sha256,
        tokenizer_size=None if tokenizer is None else tokenizer.size,
        bos_id=packing.bos_id,
        eod_id=packing.eod_id,
        data=staged.data,
        text_field=options.text_field if options.tokens_field is None else None,
        tokens_field=options.tokens_field,
        packing={"seq_len": packing.seq_len, "pack": packing.pack, "limit_tokens": packing.limit_tokens},
        plan={
            "sequences": staged.totals.sequences,
            "tokens": staged.totals.tokens,
            "tokens_sha256": staged.tokens_sha256,
        },
        sequences_per_shard=plan.sequences_per_shard,
        **probability_fields(options.sampler.to_dict(), options.probability_bits),
    )


def _resumed(storage: Storage, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest that is there, if it has the settings wanted."""
    stored = read_manifest(storage)
    check_same_settings(storage, stored, wanted)
    return stored
