"""Compiles the kernels ahead of time, needs no GPU, and holds them against bench/kernel_budgets.json.

python -m bench.check_kernels [--arch sm_90 ...] [--case NAME ...] [--default] [--json FILE] [--table FILE]

Looked at: registers, spills (local loads and stores), shared memory, 128-bit loads and stores, rounding to bfloat16,
and that the barrier before the entries' columns is where it belongs. Exits with 1 where a budget is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.kernel_cases import Case, cases

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
BUDGETS = Path(__file__).with_name("kernel_budgets.json")
_TABLE_HEAD = """# Kernels, compiled ahead of time

Written by `make check-kernels`, without a GPU. Registers are those of a thread (gfx942: vector registers); spills are
accesses to memory; the budgets are in `bench/kernel_budgets.json`.
"""
_NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Figures:
    """What a compilation came to; registers a thread, shared memory in bytes, the rest in instructions."""

    registers: int
    spills: int
    shared_bytes: int
    wide_loads: int
    wide_stores: int
    narrow_stores: int
    bf16_rounds: bool
    barrier_in_place: bool


def compile_case(case: Case, arch: str) -> Figures:
    """Compile one case for one architecture."""
    target = TARGETS[arch]
    names = case.kernel.arg_names
    aligned = {name for name, kind in case.types.items() if kind.startswith("*")} | set(case.divisible)
    source = ASTSource(
        case.kernel,
        signature={name: case.types.get(name, "constexpr") for name in names},
        constexprs=case.constants,
        attrs={(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if name in aligned},
    )
    # AMD's warps have 64 threads
    warps = case.warps if target.warp_size == 32 else max(1, case.warps // 2)
    compiled = triton.compile(source, target=target, options={"num_warps": warps, "enable_fp_fusion": True})
    in_place = case.fixup_block is None or barrier_in_place(compiled.asm["ttgir"], case)
    read = _nvidia_figures if target.backend == "cuda" else _amd_figures
    return Figures(
        **read(compiled.asm),
        shared_bytes=compiled.metadata.shared,
        # gfx942 has no such instruction: the compiler rounds in integers
        bf16_rounds=case.types.get("out") != "*bf16" or arch == "gfx942" or "cvt.rn.bf16" in compiled.asm["ptx"],
        barrier_in_place=in_place,
    )


def barrier_in_place(ttgir: str, case: Case) -> bool:
    """Return whether stores of whole blocks come before the barrier, and those of entries after it."""
    parts = re.split(r"\b(?:ttg|gpu)\.barrier\b", ttgir)
    whole, fixup = (rf"(?:tt\.|buffer_)store .*tensor<{size}x" for size in (case.constants["BLOCK"], case.fixup_block))
    return (
        len(parts) == 2
        and re.search(whole, parts[0]) is not None
        and re.search(fixup, parts[0]) is None
        and re.search(fixup, parts[1]) is not None
    )


def _nvidia_figures(asm: dict) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = _run(_NVIDIA_TOOLS / "cuobjdump", "--dump-resource-usage", file.name)
        sass = _run(_NVIDIA_TOOLS / "nvdisasm", "-c", file.name)
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "registers": found["REG"],
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", sass)) + found["STACK"] + found["LOCAL"],
        "wide_loads": len(re.findall(r"\bLDG\.E\S*\.128\b", sass)),
        "wide_stores": len(re.findall(r"\bSTG\.E\S*\.128\b", sass)),
        "narrow_stores": len(re.findall(r"\bSTG\.E\S*\.U16\b", sass)),
    }


def _amd_figures(asm: dict) -> dict[str, int]:
    text = asm["amdgcn"]
    found = {
        key: int(value) for key, value in re.findall(r"\.(vgpr\w*_count|private_segment_fixed_size):\s+(\d+)", text)
    }
    return {
        "registers": found["vgpr_count"],
        # scalar registers that do not fit are kept in lanes of vector registers, not in memory
        "spills": found["vgpr_spill_count"] + found["private_segment_fixed_size"],
        "wide_loads": len(re.findall(r"\b(?:global|buffer)_load_dwordx4\b", text)),
        "wide_stores": len(re.findall(r"\b(?:global|buffer)_store_dwordx4\b", text)),
        "narrow_stores": len(re.findall(r"\b(?:global|buffer)_store_short\w*", text)),
    }


def _run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def broken(figures: Figures, budget: dict[str, int] | None, arch: str) -> list[str]:
    """Return what of the budget is broken, in words."""
    if budget is None:
        return ["no budget"]
    found = asdict(figures)
    registers = budget["amd_registers" if arch.startswith("gfx") else "registers"]
    # one configuration has a 64-bit value on the stack there, outside of its loops
    spills = budget.get(f"{arch}_spills", 0)
    at_most = {
        "registers": registers,
        "spills": spills,
        **{key: budget[key] for key in ("shared_bytes", "narrow_stores")},
    }
    at_least = {key: budget[key] for key in ("wide_loads", "wide_stores")}
    wrong = [f"{key} {found[key]} > {limit}" for key, limit in at_most.items() if found[key] > limit]
    wrong += [f"{key} {found[key]} < {limit}" for key, limit in at_least.items() if found[key] < limit]
    if not figures.bf16_rounds:
        wrong.append("no rounding to bfloat16")
    if not figures.barrier_in_place:
        wrong.append("no barrier between the row and its entries")
    return wrong


def table(results: list[dict]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| kernel | triton | arch | registers | spills | shared B | 128-bit loads | 128-bit stores | 16-bit stores | budget |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = [result["case"], result["triton"], result["arch"]]
        figures = ("registers", "spills", "shared_bytes", "wide_loads", "wide_stores", "narrow_stores")
        cells += [str(result[key]) for key in figures]
        lines.append("| " + " | ".join([*cells, "; ".join(result["broken"]) or "kept"]) + " |")
    return "\n".join(lines) + "\n"


def put_section(path: Path, section: str) -> None:
    """Write the section of this Triton version into the file; those of other versions stay."""
    found = path.read_text().split("\n## ")[1:] if path.exists() else []
    title = section.splitlines()[0]
    sections = [text for part in found if (text := f"## {part.strip()}\n").splitlines()[0] != title]
    path.write_text("\n".join([_TABLE_HEAD, *sorted([*sections, section])]))


def main() -> int:
    """Compile, compare and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", action="append", choices=TARGETS, help="by default all of them")
    parser.add_argument("--case", action="append", help="by default all of them")
    parser.add_argument("--default", action="store_true", help="only what is launched by default, and like no other")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument(
        "--table",
        type=Path,
        help="put the printed table into this Markdown file, as the section of this Triton version",
    )
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        parser.error("TRITON_INTERPRET is set, under which nothing is compiled; unset it.")
    budgets = json.loads(BUDGETS.read_text())
    wanted = set(options.case or [case.name for case in cases()])
    chosen = [case for case in cases() if case.name in wanted and (case.is_default or not options.default)]
    results = []
    # a cache of its own: what is measured is what this version compiles now
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        for arch in options.arch or TARGETS:
            for case in chosen:
                figures = compile_case(case, arch)
                results.append(
                    {"case": case.name, "triton": triton.__version__, "arch": arch, **asdict(figures)}
                    | {"broken": broken(figures, budgets.get(case.name), arch)}
                )
    print(table(results), end="")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.table:
        put_section(options.table, f"## Triton {triton.__version__}\n\n{table(results)}")
    return int(any(result["broken"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
