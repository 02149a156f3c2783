"""Samplers: teacher logits in, sparse targets out, with an explicit seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logitstore.errors import InvalidInput
from logitstore.samplers.random_sampling import RandomSampling
from logitstore.samplers.statistics import teacher_statistics
from logitstore.samplers.thinning import thin, thinned_sampler
from logitstore.samplers.threshold import Threshold
from logitstore.samplers.top_k import TopK
from logitstore.samplers.top_p import TopP
from logitstore.samplers.variance import total_variance

__all__ = [
    "RandomSampling",
    "Threshold",
    "TopK",
    "TopP",
    "sampler_from_dict",
    "teacher_statistics",
    "thin",
    "thinned_sampler",
    "total_variance",
]

AnySampler = RandomSampling | Threshold | TopK | TopP
_SAMPLERS: dict[Any, type[AnySampler]] = {sampler.name: sampler for sampler in (RandomSampling, Threshold, TopK, TopP)}


def sampler_from_dict(config: Mapping[str, Any]) -> AnySampler:
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
