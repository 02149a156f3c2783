"""Where a loader is: what it takes to go on after any batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from logitstore.errors import InvalidInput

_VERSION = 1


@dataclass(frozen=True)
class LoaderState:
    """A place in an epoch, and all that decides which batch comes next.

    Attributes:
        store: identity of the store, `manifest_sha256`.
        shuffle: whether the order is shuffled.
        seed: of the order.
        world_size: readers that share the store.
        batch_size: sequences in a batch, on one rank.
        drop_last: whether a short last batch is left out.
        epoch: the epoch that is read.
        batches: how many of its batches have been handed out.
    """

    store: str
    shuffle: bool
    seed: int
    world_size: int
    batch_size: int
    drop_last: bool
    epoch: int
    batches: int

    def to_dict(self) -> dict[str, Any]:
        """Return the state ready for JSON, with its version."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the state that `to_dict` described.

        Raises:
            InvalidInput: it is of a newer version, a field is missing or unknown, or a value of another type.
        """
        version = state.get("version")
        if version is None or not _is_a(version, int) or version < 1:
            raise InvalidInput(f"the loader state has version {version!r}; is it the `state_dict()` of a loader?")
        if version > _VERSION:
            raise InvalidInput(
                f"the loader state has version {version}; this logitstore reads up to {_VERSION}. Update logitstore."
            )
        types = {"store": str, "shuffle": bool, "drop_last": bool}
        names = {field.name for field in fields(cls)}
        if wrong := names ^ (state.keys() - {"version"}):
            raise InvalidInput(f"fields of the loader state are missing or unknown: {', '.join(sorted(wrong))}.")
        for name in sorted(names):
            if not _is_a(state[name], types.get(name, int)):
                raise InvalidInput(f"{name} of the loader state is {state[name]!r}.")
        for name in ("epoch", "batches"):
            if state[name] < 0:
                raise InvalidInput(f"{name} of the loader state is {state[name]}; 0 or more was wanted.")
        return cls(**{name: state[name] for name in names})

    def check_same_run(self, current: LoaderState) -> None:
        """Raise InvalidInput where the batches of `current` are others than those of this state."""
        here = asdict(current)
        different = [
            f"{name} was {value!r} and is {here[name]!r}"
            for name, value in asdict(self).items()
            if name not in ("epoch", "batches") and value != here[name]
        ]
        if different:
            raise InvalidInput(
                f"the loader state is of another run: {'; '.join(different)}. Make dataset and loader as they were "
                "when it was saved, or start an epoch anew."
            )


def _is_a(value: Any, wanted: type) -> bool:
    """Whether `value` is of a type, where a bool is no whole number."""
    return isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)
