"""On which sparse targets an option is valid: temperature, and what is done about missing mass."""

from __future__ import annotations

from logitstore.errors import InvalidInput
from logitstore.losses.options import LossOptions
from logitstore.targets import PaddedTargets, SparseTargets

#: samplers that keep exact probabilities of the largest tokens, so that their missing mass is known
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


def check_missing_mass(targets: SparseTargets | PaddedTargets, options: LossOptions) -> None:
    """Raise InvalidInput where the weights of these targets do not tell what mass is missing."""
    chosen = options.missing_mass
    if chosen == "ignore":
        return
    if targets.sampler not in _KEEPS_EXACT_PROBABILITIES:
        raise InvalidInput(
            f'missing_mass is "{chosen}", but the targets come from the sampler {targets.sampler or "unknown"}. Only '
            "top-k and top-p leave out mass that is known; an unbiased sample has none missing, and renormalising it "
            'would bias it. Use missing_mass="ignore", or name the sampler in the targets if they are top-k.'
        )
    if chosen == "tail" and options.temperature != 1:
        raise InvalidInput(
            f'missing_mass is "tail" and temperature {options.temperature:g}: the mass of the tail at another '
            'temperature than 1 is not known from the kept entries. Use temperature=1, or missing_mass="renormalise".'
        )
    if options.value == "kl":
        raise InvalidInput(
            f'value is "kl" and missing_mass "{chosen}": teacher_entropy belongs to the full teacher, not to its kept '
            'entries. Use value="soft_cross_entropy" (the gradient is the same), or missing_mass="ignore".'
        )
