"""At which temperature the weights of sparse targets are valid."""

from __future__ import annotations

from logitstore.errors import InvalidInput
from logitstore.targets import PaddedTargets, SparseTargets

#: samplers that keep exact probabilities of the largest tokens, which can be tempered after the fact
_KEEPS_EXACT_PROBABILITIES = frozenset({"top-k", "top-p"})


def needs_tempering(targets: SparseTargets | PaddedTargets, temperature: float) -> bool:
    """Return whether the weights must be tempered and renormalised to be used at `temperature`.

    Raises:
        InvalidInput: the weights say nothing about this temperature. Only those of top-k and top-p, captured at
            temperature 1, can be moved; targets of an unknown sampler count as an unbiased sample.
    """
    captured = targets.teacher_temperature
    if temperature == captured:
        return False
    if targets.sampler in _KEEPS_EXACT_PROBABILITIES and captured == 1:
        return True
    raise InvalidInput(
        f"temperature is {temperature:g}, but the targets (sampler {targets.sampler or 'unknown'}) were captured at "
        f"teacher temperature {captured:g}. An unbiased sample taken at one temperature says nothing unbiased about "
        "another; only top-k and top-p entries captured at 1 can be tempered afterwards. Use "
        f"temperature={captured:g}, or build a store with `--teacher-temperature {temperature:g}`."
    )
