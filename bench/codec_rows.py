"""Rows of a real teacher as sequences for bench/codec.py, and the making of top-k rows.

python bench/codec_rows.py ROWS OUT     runs Gemma 3 270M of logitstore[demo] on the tokens of ROWS/*.npz: top-50 rows

ROWS holds one .npz for each sequence: tokens [T], rs50 [T, 50] (ids drawn with replacement), th20_ids, th20_head [E],
th20_k, th20_h [T] (threshold sampling at n = 20: head first, with exact probabilities).
"""

# T positions, E entries, K entries kept

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from logitstore.codec.arrays import SequenceArrays, WeightForm
from logitstore.samplers import Threshold, thin
from logitstore.samplers.grid import round_to_grid
from logitstore.targets import SparseTargets

GRID = 64
DRAWS = {"random-sampling": 50, "threshold-20": 20, "threshold-18": 18}
#: ids of the threshold rows that stand twice in a position; the rows hold a few, which no sampler here makes
joined = 0


def random_sampling(row: dict[str, np.ndarray], index: int) -> SequenceArrays:
    uniques = [np.unique(drawn, return_counts=True) for drawn in row["rs50"]]
    return SequenceArrays(
        tokens=row["tokens"].astype(np.int32),
        counts=np.array([len(ids) for ids, _ in uniques]),
        ids=np.concatenate([ids for ids, _ in uniques]).astype(np.int32),
        form=WeightForm.COUNTS,
        values=np.concatenate([counts for _, counts in uniques]).astype(np.uint32),
        scale=DRAWS["random-sampling"],
    )


def threshold(row: dict[str, np.ndarray], index: int, draws: int) -> SequenceArrays:
    """The rows at n = 20 on the grid, thinned to `draws` where that is fewer."""
    targets = _threshold_targets(row, index)
    if draws < DRAWS["threshold-20"]:
        sampler = Threshold(draws=DRAWS["threshold-20"], grid=GRID)
        targets = thin(targets, draws, sampler=sampler, index=index)
    offsets, ids, weights = (t.numpy() for t in (targets.offsets, targets.ids, targets.weights))
    heads = targets.head_counts.numpy().astype(np.int64)
    counts = np.diff(offsets)
    nth = np.arange(len(ids)) - np.repeat(offsets[:-1], counts)
    is_tail = nth >= np.repeat(heads, counts)
    order = np.lexsort((ids, is_tail, np.repeat(np.arange(len(counts)), counts)))
    numerators = np.rint(weights * GRID).astype(np.uint32)[order]
    return SequenceArrays(
        tokens=row["tokens"].astype(np.int32),
        counts=counts,
        ids=ids[order],
        form=WeightForm.HEAD_GRID,
        values=numerators[~is_tail[order]],
        scale=GRID,
        head_counts=heads,
    )


def _threshold_targets(row: dict[str, np.ndarray], index: int) -> SparseTargets:
    generator = np.random.default_rng(index)
    ids, weights, counts, heads, start = [], [], [], [], 0
    for k, h in zip(row["th20_k"].astype(int), row["th20_h"].astype(int), strict=True):
        head, tail, exact = _position(row["th20_ids"][start : start + k], row["th20_head"][start : start + h])
        start += k
        uniform = torch.tensor([generator.random()], dtype=torch.float64)
        whole = torch.tensor([len(tail) == 0])
        numerators = round_to_grid(torch.tensor(exact)[None], GRID, uniform, whole=whole)[0].numpy()
        head, numerators = head[numerators > 0], numerators[numerators > 0]
        left = 1 - numerators.sum() / GRID
        tail = tail if left > 0 else tail[:0]
        ids += [head, tail]
        weights += [numerators / GRID, np.full(len(tail), left / max(1, len(tail)))]
        counts.append(len(head) + len(tail))
        heads.append(len(head))
    return SparseTargets(
        offsets=torch.tensor(np.concatenate([[0], np.cumsum(counts)])),
        ids=torch.tensor(np.concatenate(ids)).int(),
        weights=torch.tensor(np.concatenate(weights)).float(),
        head_counts=torch.tensor(heads).int(),
        sampler="threshold",
    )


def _position(ids: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Head ids, tail ids, head probabilities; an id that stands twice in the tail joins the head with its sum."""
    global joined
    tail = ids[len(head) :]
    unique, times = np.unique(tail, return_counts=True)
    if len(unique) == len(tail):
        return ids[: len(head)], np.sort(tail), head.astype(np.float64)
    joined += 1
    share = max(0.0, 1 - head.astype(np.float64).sum()) / len(tail)
    twice = unique[times > 1]
    exact = np.concatenate([head.astype(np.float64), share * times[times > 1]])
    return np.concatenate([ids[: len(head)], twice]), unique[times == 1], exact


def top_k(tokens: np.ndarray, top: dict[str, np.ndarray], scale: int) -> SequenceArrays:
    order = np.argsort(top["ids"], axis=1)
    ids, probabilities = (np.take_along_axis(top[name], order, axis=1) for name in ("ids", "probabilities"))
    return SequenceArrays(
        tokens=tokens.astype(np.int32),
        counts=np.full(len(ids), ids.shape[1]),
        ids=ids.reshape(-1).astype(np.int32),
        form=WeightForm.PROBABILITIES,
        values=probabilities.reshape(-1).astype(np.float32),
        scale=scale,
    )


def in_pairs(sequences: list[SequenceArrays]) -> Iterator[SequenceArrays]:
    """Two sequences each as one of twice the length."""
    for first, second in zip(sequences[::2], sequences[1::2], strict=False):
        parts = {
            name: np.concatenate([getattr(first, name), getattr(second, name)])
            for name in ("tokens", "counts", "ids", "values")
        }
        if first.head_counts is not None:
            parts["head_counts"] = np.concatenate([first.head_counts, second.head_counts])
        yield replace(first, **parts)


def make_top_rows(rows: Path, out: Path, k: int = 50) -> None:
    import transformers

    from logitstore.demo.teacher import packaged_teacher

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        place = packaged_teacher(Path(folder), echo=print)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            place.model, gguf_file=place.gguf_file, dtype=torch.float32
        ).eval()
        for path in sorted(rows.glob("*.npz")):
            tokens = torch.tensor(np.load(path)["tokens"])[None].long()
            probabilities, ids = torch.softmax(model(tokens).logits[0].double(), -1).topk(k, -1)
            np.savez(out / path.name, ids=ids.int().numpy(), probabilities=probabilities.float().numpy())
            print(path.name, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    make_top_rows(options.rows, options.out)
