"""Peak memory of a piece of code, in a program of its own."""

import subprocess
import sys

#: `ru_maxrss` would not do: a new program's begins at the peak of the process that started it
_PREAMBLE = """
from pathlib import Path
def peak_bytes():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def peak_bytes_of(setup: str, work: str) -> int:
    """Return by how much `work` raises the peak memory that `setup` left."""
    code = f"{_PREAMBLE}{setup}\nbefore = peak_bytes()\n{work}\nprint(peak_bytes() - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(run.stdout)
