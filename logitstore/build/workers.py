"""Further processes of this machine that work on the same store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from logitstore.build.options import BuildOptions
from logitstore.errors import InvalidInput
from logitstore.progress import say
from logitstore.store.storage import Storage

_CHILD = "from logitstore.cli.main import main; main()"
#: a process that is at a unit which somebody else has committed ends after its sequence
_PATIENCE_S = 600.0


def check_workers(options: BuildOptions) -> None:
    """Raise InvalidInput where the build cannot have so many processes."""
    if options.workers < 1:
        raise InvalidInput(f"workers is {options.workers}; at least 1 was wanted.")
    if options.workers > 1 and not isinstance(options.teacher, str | os.PathLike):
        raise InvalidInput(
            f"{options.workers} workers each load the teacher, and it is an object of this process; name a checkpoint, or "
            "start processes of your own that call logitstore.build.join.join_build."
        )


@contextmanager
def helpers(storage: Storage, options: BuildOptions) -> Iterator[None]:
    """Run `workers - 1` processes that join the build, each with its share of the cores, and a GPU in turn.

    One that fails says why, and the others do its work.
    """
    if options.workers == 1:
        yield
        return
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    environment = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    started = [
        subprocess.Popen(_command(storage, options, number), env=environment, stdin=subprocess.DEVNULL)
        for number in range(1, options.workers)
    ]
    try:
        yield
        for number, process in enumerate(started, start=2):
            try:
                code: int | str = process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                code = "none, as it did not end"
            if code != 0:
                say(f"worker {number}: exit code {code}; the others did its work.", quiet=options.quiet)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
        torch.set_num_threads(before)


def _command(storage: Storage, options: BuildOptions, number: int) -> list[str]:
    device = options.device
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{number % torch.cuda.device_count()}"
    command = [sys.executable, "-c", _CHILD, "build", storage.url, "--join", "--quiet", "--device", device]
    command += ["--teacher", str(options.teacher), "--dtype", options.dtype]
    for name, value in (
        ("--gguf-file", options.gguf_file),
        ("--revision", options.revision),
        ("--batch-size", options.batch_size),
    ):
        command += [] if value is None else [name, str(value)]
    return [*command, "--trust-remote-code"] if options.trust_remote_code else command
