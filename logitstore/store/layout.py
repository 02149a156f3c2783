"""Where things lie in a store."""

from __future__ import annotations

FORMAT_NAME = "logitstore"
#: version of everything in a store's folder: this layout, the manifest, the index and the blobs
FORMAT_VERSION = 2

MANIFEST = "manifest.json"
SEALED = "sealed.json"
INDEX = "index.parquet"
PLAN = "plan.parquet"
TABLE = "frequencies.bin"
PILOT = "pilot.parquet"
GROUP = "zarr.json"
ARRAY = "sequences"
#: what zarr-python reads first
METADATA = (GROUP, f"{ARRAY}/{GROUP}")
COMMITS = "commits"
ATTEMPTS = "attempts"
CLAIMS = "claims"
GENERATIONS = "generations"
#: what only an unfinished store needs
SCAFFOLDING = (PLAN, PILOT, COMMITS, CLAIMS, ATTEMPTS)


def shard_name(unit: int) -> str:
    """Return a shard's path below the store: the key of that chunk in the Zarr array."""
    return f"{ARRAY}/c/{unit}"


def commit_name(unit: int) -> str:
    """Return the path of a work unit's commit record below the store."""
    return f"{COMMITS}/{unit:08d}.parquet"


def claim_name(unit: int, number: int) -> str:
    """Return the path of a work unit's claim, its `number`-th from 0 on, below the store."""
    return f"{CLAIMS}/{unit:08d}/{number}"


def generation_name(number: int) -> str:
    """Return the folder of what was appended as the `number`-th, from 1 on, below the store."""
    return f"{GENERATIONS}/{number:04d}"
