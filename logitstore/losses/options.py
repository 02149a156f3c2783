"""What a loss is made of, apart from its tensors: the options that all losses of this room share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from logitstore.errors import InvalidInput

Reduction = Literal["none", "sum", "mean"]
Value = Literal["soft_cross_entropy", "kl"]
MissingMass = Literal["ignore", "renormalise", "tail"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "reduction": ("none", "sum", "mean"),
    "value": ("soft_cross_entropy", "kl"),
    "missing_mass": ("ignore", "renormalise", "tail"),
}


@dataclass(frozen=True)
class LossOptions:
    """The options of `sparse_kd_loss`, under its names; see there.

    Raises:
        InvalidInput: an option is out of range.
    """

    alpha: float = 1.0
    temperature: float = 1.0
    reduction: Reduction = "mean"
    value: Value = "soft_cross_entropy"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    missing_mass: MissingMass = "ignore"

    def __post_init__(self) -> None:
        if not _is_number(self.alpha) or not 0 <= self.alpha <= 1:
            raise InvalidInput(
                f"alpha is {self.alpha!r}; a number from 0 (labels only) to 1 (targets only) was wanted."
            )
        if not _is_finite_above_0(self.temperature):
            raise InvalidInput(f"temperature is {self.temperature!r}; a finite number above 0 was wanted.")
        if not _is_number(self.label_smoothing) or not 0 <= self.label_smoothing <= 1:
            raise InvalidInput(f"label_smoothing is {self.label_smoothing!r}; a number from 0 to 1 was wanted.")
        if not _is_finite_above_0(self.z_loss) and self.z_loss != 0:
            raise InvalidInput(f"z_loss is {self.z_loss!r}; a finite number of at least 0 was wanted.")
        if self.softcap is not None and not _is_finite_above_0(self.softcap):
            raise InvalidInput(f"softcap is {self.softcap!r}; a finite number above 0 was wanted, or None for none.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; one of {', '.join(choices)} was wanted.")

    @property
    def uses_labels(self) -> bool:
        """Whether there is a hard-label term."""
        return self.alpha < 1

    @property
    def needs_mean(self) -> bool:
        """Whether the mean of the logits over the vocabulary is needed."""
        return self.uses_labels and self.label_smoothing > 0

    @property
    def softcap_or_0(self) -> float:
        """The softcap as `select_lse` wants it."""
        return 0.0 if self.softcap is None else float(self.softcap)

    def check_labels(self, *, has_labels: bool) -> None:
        """Raise InvalidInput where an option needs labels and there are none."""
        if has_labels:
            return
        if self.alpha < 1:
            raise InvalidInput(
                f"alpha is {self.alpha:g} but there are no labels; pass labels (already shifted), or alpha=1 for the "
                "targets alone."
            )
        if self.label_smoothing > 0:
            raise InvalidInput(
                f"label_smoothing is {self.label_smoothing:g} but there are no labels to smooth; pass labels and an "
                "alpha below 1, or label_smoothing=0."
            )


def debug_is_on(debug: bool | None) -> bool:
    """Return `debug`, or where it is None whether the environment's LOGITSTORE_DEBUG is set to anything but 0."""
    return os.environ.get("LOGITSTORE_DEBUG", "0") not in ("", "0") if debug is None else debug


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite_above_0(value: Any) -> bool:
    return _is_number(value) and bool(0 < value < float("inf"))
