"""Which compilations of the kernels are looked at: kernel, types, options, block and warps.

A case's name is its key in kernel_budgets.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from logitstore.triton_kernels import block_kernels, logit_blocks, row_kernels
from logitstore.triton_kernels.select_lse import ENTRY_BLOCK

VECTOR = {"bf16": 8, "fp16": 8, "fp32": 4}
#: what is no pointer to float32
_TYPES = {
    "offsets": "*i64",
    "ids": "*i32",
    "labels": "*i64",
    "stride": "i32",
    "out_stride": "i32",
    "lead": "i32",
    "out_lead": "i32",
    "vocab_size": "i32",
    "inverse_temperature": "fp32",
    "softcap": "fp32",
}


@dataclass(frozen=True)
class Case:
    """One compilation.

    Attributes:
        name: unique.
        kernel: a function under `triton.jit`.
        types: Triton type of each run-time argument.
        constants: value of each compile-time argument.
        warps: of 32 threads.
        divisible: integer arguments that are multiples of 16; pointers always are.
        fixup_block: where a barrier must stand between stores of whole blocks and stores of this many columns.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int
    divisible: tuple[str, ...] = ()
    fixup_block: int | None = None

    @property
    def is_default(self) -> bool:
        """Whether it is one of those that tests compile each time: launched by default, and like no other."""
        others = ("fp16", "32768x32", "block_statistics fp32", "ones")
        return not any(other in self.name for other in others)


def row_case(direction: str, dtype: str, block: int, warps: int, options: str = "plain", rows: str = "aligned") -> Case:
    """Return a compilation of a row kernel; options: "plain" (no labels) or "all"."""
    kernel = getattr(row_kernels, f"select_lse_{direction}_kernel")
    everything, aligned = options == "all", rows == "aligned"
    constants = {
        "HAS_LABELS": everything,
        "SOFTCAP": everything,
        "WITH_ONE": everything,
        "WITH_MEAN": everything,
        "ALIGNED": aligned,
        "VECTOR": VECTOR[dtype],
        "BLOCK": block,
        "ENTRY_BLOCK": ENTRY_BLOCK,
    }
    if direction == "backward":
        constants |= {"OUT_ALIGNED": aligned, "SAME_PHASE": True}
    types = {name: _TYPES.get(name, "*fp32") for name in kernel.arg_names if name not in constants}
    types |= {name: f"*{dtype}" for name in ("logits", "out") if name in types}
    return Case(
        f"select_lse_{direction} {dtype} {block}x{warps} {options} {rows}",
        kernel,
        types,
        constants,
        warps,
        ("vocab_size",) if aligned else (),
        ENTRY_BLOCK if direction == "backward" else None,
    )


def block_case(name: str, dtype: str = "bf16", rows: str = "aligned") -> Case:
    """Return a compilation of a kernel over blocks of columns."""
    kernel = getattr(block_kernels, f"{name}_kernel")
    constants = {
        "ALIGNED": rows == "aligned",
        "VECTOR": VECTOR[dtype],
        "BLOCKS": logit_blocks.MASS_BLOCKS if name == "block_masses" else logit_blocks.TILE_BLOCKS[rows == "aligned"],
        "WIDTH": logit_blocks.COLUMN_BLOCK,
        "CHOSEN": logit_blocks.INVERTED_BLOCKS if name == "invert_blocks" else logit_blocks.CHOSEN_BLOCKS,
    }
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    special = {"logits": f"*{dtype}", "stride": "i32", "vocab_size": "i32", "power": "fp32"}
    special |= dict.fromkeys(("num_blocks", "num_chosen", "num_targets"), "i32")
    special |= dict.fromkeys(("chosen", "keys", "cutoffs", "ids"), "*i64") | dict.fromkeys(("masses", "rests"), "*fp64")
    types = {argument: special.get(argument, "*fp32") for argument in kernel.arg_names if argument not in constants}
    warps = logit_blocks.TILE_WARPS if name == "block_statistics" else 4
    divisible = ("vocab_size",) if rows == "aligned" and "vocab_size" in types else ()
    return Case(f"{name} {dtype} {rows}", kernel, types, constants, warps, divisible)


def with_ones(case: Case) -> Case:
    """Return the case as a launch compiles it where counts are 1: Triton makes constants of them."""
    ones = [name for name in ("vocab_size", "num_blocks", "num_chosen", "num_targets") if name in case.types]
    types = {name: kind for name, kind in case.types.items() if name not in ones}
    constants = case.constants | dict.fromkeys(ones, 1)
    return replace(case, name=f"{case.name} ones", types=types, constants=constants, divisible=())


def cases() -> Iterator[Case]:
    """Yield every case: all configurations in bfloat16, and each other choice at the one in the middle."""
    for direction in ("forward", "backward"):
        for block, warps in ((4_096, 8), (8_192, 8), (16_384, 16), (32_768, 32)):
            yield row_case(direction, "bf16", block, warps)
        yield row_case(direction, "bf16", 16_384, 16, options="all")
        yield row_case(direction, "bf16", 8_192, 8, options="all", rows="unaligned")
        yield row_case(direction, "fp16", 8_192, 8)
        yield row_case(direction, "fp32", 8_192, 8)
        for rows in ("aligned", "unaligned"):
            yield with_ones(row_case(direction, "bf16", 1_024, 4, options="all", rows=rows))
    yield block_case("block_statistics")
    yield block_case("block_statistics", "fp32")
    yield block_case("block_statistics", rows="unaligned")
    for name in ("block_masses", "keys", "remaining_masses", "invert_blocks"):
        yield block_case(name)
        yield with_ones(block_case(name))
    yield with_ones(block_case("block_statistics", rows="unaligned"))
