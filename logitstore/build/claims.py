"""Which process works on which unit: advice that saves work, and that nothing depends on.

A claim is a file that is created once. A process takes the first unit that has the fewest claims and is not committed;
so each unit is claimed once before any is claimed twice, and a unit whose process died is taken again when nothing else
is left. No clock says when that is: where the first process lives after all, both make the same unit, one commits it,
and the other notices.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass

from logitstore.store.layout import CLAIMS, SEALED, claim_name, commit_name
from logitstore.store.storage import Storage
from logitstore.store.writer import committed_units


@dataclass(frozen=True)
class Claim:
    """A unit to work on.

    Attributes:
        unit: its number.
        is_shared: whether another process claimed it before, and may be at work on it still.
    """

    unit: int
    is_shared: bool


class Claims:
    """Takes units of an unfinished store for one process."""

    def __init__(self, storage: Storage, num_units: int) -> None:
        self._storage, self._num_units = storage, num_units
        self._me = uuid.uuid4().hex.encode()

    def take(self) -> Claim | None:
        """Claim the next unit; None where all are committed."""
        left = set(range(self._num_units)) - set(committed_units(self._storage))
        # a seal takes the commit records away, after it is there itself
        if not left or self._storage.exists(SEALED):
            return None
        counts = Counter(dict.fromkeys(left, 0))
        counts.update(unit for name in self._storage.names(CLAIMS) if (unit := int(name.split("/")[1])) in left)
        while True:
            unit = min(counts, key=lambda unit: (counts[unit], unit))
            if self._storage.create(claim_name(unit, counts[unit]), self._me):
                return Claim(unit, counts[unit] > 0)
            counts[unit] += 1

    def is_overtaken(self, claim: Claim) -> bool:
        """Return whether another process has committed the unit by now."""
        return claim.is_shared and (self._storage.exists(commit_name(claim.unit)) or self._storage.exists(SEALED))
