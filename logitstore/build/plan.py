"""How a build is cut into work units: a pure function of what there is to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from logitstore.store.manifest import DERIVED

#: a build has about this many units, within the bounds below
_WANTED_UNITS = 64
#: tokens of a unit: no less, so that shards are worth a file each; no more, so that a stop loses minutes, not hours
_LEAST_UNIT_TOKENS = 1 << 12
_MOST_UNIT_TOKENS = 1 << 22


@dataclass(frozen=True)
class Plan:
    """The work units of a build: unit u is the sequences `u * sequences_per_shard` and on.

    Attributes:
        num_sequences: sequences in all.
        sequences_per_shard: sequences of each unit but perhaps the last.
    """

    num_sequences: int
    sequences_per_shard: int

    @property
    def num_units(self) -> int:
        return -(-self.num_sequences // self.sequences_per_shard)

    def bounds(self, unit: int) -> tuple[int, int]:
        """Return the first sequence of a unit and the one after its last."""
        start = unit * self.sequences_per_shard
        return start, min(start + self.sequences_per_shard, self.num_sequences)


def make_plan(num_sequences: int, num_tokens: int) -> Plan:
    """Cut `num_sequences` sequences with `num_tokens` tokens in all into units of about equal work."""
    wanted = 1 << max(0, (num_tokens // _WANTED_UNITS - 1).bit_length())
    unit_tokens = min(max(wanted, _LEAST_UNIT_TOKENS), _MOST_UNIT_TOKENS)
    return Plan(num_sequences, max(1, unit_tokens * num_sequences // max(num_tokens, 1)))


def plan_of(manifest: Mapping[str, Any]) -> Plan:
    """Return the work units of a store, by its manifest."""
    return Plan(manifest["plan"]["sequences"], manifest["sequences_per_shard"])


def made_by_build(manifest: Mapping[str, Any]) -> bool:
    """Return whether a teacher over data files made the store, or is to make it; not `create_store`, thin or merge."""
    return "plan" in manifest and not manifest.keys() & set(DERIVED.values())


def evenly_spread(num_sequences: int, count: int) -> list[int]:
    """Return `count` sequences, ascending: all are cut into runs of equal length, and each run's middle one is taken."""
    return [(2 * run + 1) * num_sequences // (2 * count) for run in range(count)]
