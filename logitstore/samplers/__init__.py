"""Samplers: teacher logits in, sparse targets out, with an explicit seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logitstore.errors import InvalidInput
from logitstore.samplers.random_sampling import RandomSampling
from logitstore.samplers.top_k import TopK

__all__ = ["RandomSampling", "TopK", "sampler_from_dict"]

_SAMPLERS: dict[Any, type[RandomSampling | TopK]] = {RandomSampling.name: RandomSampling, TopK.name: TopK}


def sampler_from_dict(config: Mapping[str, Any]) -> RandomSampling | TopK:
    """Return the sampler that `to_dict` described.

    Raises:
        InvalidInput: no such sampler, or parameters that it does not take.
    """
    parameters = dict(config)
    name = parameters.pop("name", None)
    if name not in _SAMPLERS:
        raise InvalidInput(f"there is no sampler {name!r}; there are {', '.join(sorted(_SAMPLERS))}.")
    try:
        return _SAMPLERS[name](**parameters)
    except TypeError as error:
        raise InvalidInput(f"sampler {name} does not take the parameters {parameters}: {error}.") from None
