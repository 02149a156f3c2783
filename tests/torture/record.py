"""How much is tried, and where the results of a full run go."""

import json
import os
from pathlib import Path

#: set by `make torture`
FULL = os.environ.get("LOGITSTORE_TORTURE") == "1"
RESULTS = Path(__file__).parents[2] / "bench" / "results" / "torture.json"


def size(*, full, small):
    """Return how many trials to run: `small` in the usual suite."""
    return full if FULL else small


def record(fault, trials, outcome):
    """Put the outcome of a full run into the table of results."""
    if not FULL:
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found[fault] = {"trials": trials, "outcome": outcome}
    RESULTS.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
