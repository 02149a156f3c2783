"""The demo from end to end: teacher, store, verification, one position in words, two students, picture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from logitstore.demo.comparison import Curve, HeldOut, TrainingBatch, TrainingPlan, compare_losses
from logitstore.demo.held_out import measure_teacher, split_sequences
from logitstore.demo.options import DemoOptions, DemoResult
from logitstore.demo.plot import plot_comparison
from logitstore.demo.report import comparison_summary, comparison_table, explain_comparison
from logitstore.demo.student import StudentShape
from logitstore.demo.teacher import TeacherPlace, packaged_teacher
from logitstore.demo.vocabulary import CompactVocabulary
from logitstore.demo.words import describe_position, telling_position
from logitstore.errors import StoreError
from logitstore.progress import Progress

Echo = Callable[[str], None]
TEXT = Path(__file__).with_name("data") / "newton_opticks_queries.txt"


def run_demo(options: DemoOptions, echo: Echo = print) -> DemoResult:
    """Build a store from a real teacher, show what is in it, and train a student from it, with and without it.

    The folder `options.out` holds the store, demo.png, result.json and, where it is the packaged one, the teacher.
    A second run with the same options uses the store that is there.

    Args:
        options: what to show, with what, and where.
        echo: gets each text that is shown; progress goes to stderr.

    Raises:
        TeacherError: the teacher is missing or cannot be used.
        StoreError: kind "settings-differ", `out` holds a store of other options; or the store is damaged.
        InvalidInput: too little text, or options that cannot be used.
    """
    begin = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    teacher, tokenizer = _open_teacher(options, echo)
    store_path = _build_store(options, teacher, tokenizer, echo)
    store, statistics = _show_store(store_path, tokenizer, echo)
    result = _compare(options, store, store_path, statistics, teacher, echo)
    result.result.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    echo(
        f"\nThe picture is {result.plot}, the numbers are in {result.result}. {time.monotonic() - begin:.0f} s in all."
    )
    return result


def _open_teacher(options: DemoOptions, echo: Echo) -> tuple[Any, Any]:
    from logitstore.teachers import inspect_teacher, load_teacher, load_tokenizer

    echo("1. The teacher")
    if options.teacher is None:
        place = packaged_teacher(options.out / "teacher", echo=echo)
    else:
        place = TeacherPlace(options.teacher, options.gguf_file)
    with Progress(f"loading {place.gguf_file or place.model}", 1, unit="teacher") as progress:
        info = inspect_teacher(place.model, gguf_file=place.gguf_file)
        teacher = load_teacher(place.model, gguf_file=place.gguf_file, device=options.device, info=info)
        progress.advance()
    return teacher, load_tokenizer(place.model, gguf_file=place.gguf_file, info=info)


def _build_store(options: DemoOptions, teacher: Any, tokenizer: Any, echo: Echo) -> Path:
    from logitstore.build import build
    from logitstore.samplers import RandomSampling

    echo(
        f"\n2. A store of {options.positions} tokens, random sampling with {options.draws} draws a position (unbiased)"
    )
    if options.data is None:
        echo("The text: the Queries of Isaac Newton's Opticks (1730), in the public domain; see data/SOURCE.md.")
    store_path = options.out / "store"
    build(
        store_path,
        teacher=teacher,
        tokenizer=tokenizer,
        data=[TEXT] if options.data is None else list(options.data),
        seq_len=options.seq_len,
        sampler=RandomSampling(draws=options.draws),
        seed=options.seed,
        limit_tokens=options.positions,
        resume=True,
    )
    return store_path


def _show_store(store_path: Path, tokenizer: Any, echo: Echo) -> tuple[Any, dict[str, Any]]:
    from logitstore.store import open_store, store_statistics, verify_store

    echo("\n3. What is in it")
    findings = verify_store(store_path)
    if findings:
        raise StoreError(
            f"the demo's store {store_path} is damaged, {len(findings)} finding(s), the first: {findings[0]}. "
            "Remove the folder and run the demo again.",
            kind="checksum-mismatch",
        )
    echo("verified: every sequence was read, nothing was found wrong")
    statistics = dict(store_statistics(store_path))
    for name, value in statistics.items():
        echo(f"  {name}: {round(value, 3) if isinstance(value, float) else value}")
    store = open_store(store_path)
    sequence = store[len(store) // 2]
    echo("\n" + describe_position(sequence, telling_position(sequence), tokenizer))
    return store, statistics


def _compare(
    options: DemoOptions, store: Any, store_path: Path, statistics: dict[str, Any], teacher: Any, echo: Echo
) -> DemoResult:
    from logitstore.loader import LogitDataset

    dataset = LogitDataset(store, shuffle=False, seed=options.seed)
    train, held_out_indices = split_sequences(len(store))
    vocabulary = CompactVocabulary.from_store(store, entries_of=held_out_indices)
    shape = StudentShape(vocabulary.size, options.seq_len)
    plan = TrainingPlan(options.steps, batch_size=min(options.batch_size, len(train)), seed=options.seed)
    echo("\n4. The same student, trained with cross-entropy and with sparse KD")
    echo(explain_comparison(shape, plan, train=train, held_out=held_out_indices, vocab_size=_vocab_size(store)))

    held_out = _measure_teacher(dataset, store, held_out_indices, vocabulary, teacher)
    curves = _train(_batches(dataset, train, vocabulary, plan), held_out, shape, plan)
    result = DemoResult(
        store=store_path,
        plot=options.out / "demo.png",
        result=options.out / "result.json",
        statistics=statistics,
        teacher_loss=held_out.teacher_loss(),
        curves=curves,
        step_time_ratio=curves["sparse KD"].median_step_s / curves["cross-entropy"].median_step_s,
        other_mass=held_out.other_mass(),
        settings={
            "student": asdict(shape),
            "training": asdict(plan),
            "held_out_sequences": held_out_indices,
            "draws": options.draws,
            "threads": torch.get_num_threads(),
        },
    )
    subtitle = f"{len(train)} sequences to train on, {len(held_out_indices)} held out, seed {options.seed}"
    plot_comparison(result.plot, curves, teacher_loss=result.teacher_loss, subtitle=subtitle)
    echo("\n" + comparison_table(curves, teacher_loss=result.teacher_loss))
    echo("\n" + comparison_summary(curves, step_time_ratio=result.step_time_ratio, other_mass=result.other_mass))
    return result


def _vocab_size(store: Any) -> int:
    return int(store.manifest["vocab_size"])


def _measure_teacher(
    dataset: Any, store: Any, held_out: list[int], vocabulary: CompactVocabulary, teacher: Any
) -> HeldOut:
    batches = [dataset.collate([dataset[index]]) for index in held_out]
    sequences = [(store[i].tokens, batch.labels[0]) for i, batch in zip(held_out, batches, strict=True)]
    rows = sum(len(tokens) for tokens, _ in sequences)
    with Progress("the teacher reads the held-out sequences", rows, unit="positions") as progress:
        return measure_teacher(teacher, sequences, vocabulary, vocab_size=_vocab_size(store), on_rows=progress.advance)


def _batches(
    dataset: Any, train: list[int], vocabulary: CompactVocabulary, plan: TrainingPlan
) -> Iterator[TrainingBatch]:
    subset: Subset[Any] = Subset(dataset, train)
    loader = DataLoader(
        subset,
        batch_size=plan.batch_size,
        shuffle=True,
        drop_last=True,
        generator=torch.Generator().manual_seed(plan.seed),
        collate_fn=dataset.collate,
    )
    while True:
        for batch in loader:
            yield TrainingBatch(
                tokens=vocabulary.map_ids(batch.tokens),
                labels=vocabulary.map_labels(batch.labels),
                targets=vocabulary.map_targets(batch.targets),
            )


def _train(
    batches: Iterator[TrainingBatch], held_out: HeldOut, shape: StudentShape, plan: TrainingPlan
) -> dict[str, Curve]:
    with Progress("training both students", plan.steps, unit="steps") as progress:

        def show(curves: dict[str, Curve]) -> None:
            losses = ", ".join(f"{name} {curve.points[-1].loss:.2f}" for name, curve in curves.items())
            progress.advance(note=f"held-out loss: {losses}")

        return compare_losses(batches, held_out, shape, plan, on_step=show)
