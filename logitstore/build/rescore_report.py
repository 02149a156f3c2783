"""What running the teacher again has shown: numbers, findings, and a sentence for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from logitstore.build.agreement import Tolerance
from logitstore.store import Finding

#: the chance that an honest store is accused by the deviation of its sequences, all of them together
FALSE_ALARM = 1e-6
#: largest share of positions that may disagree, over all sequences and within one; and so many may in any case
_MOST_OF_ALL, _MOST_OF_ONE, _SOME = 0.01, 0.1, 2
#: positions that tell seeds apart, before a sequence is judged by them: with another seed it is accused in 94 of 100
#: cases at 20 of them and almost always at 100; with the right seed and logits never, as `by_chance` is 0
_LEAST_TELLING = 20


@dataclass(frozen=True)
class Score:
    """Counts over the positions of a sequence, or of several, that have a target.

    Attributes:
        sequence: which one; -1 for several.
        positions: how many.
        disagreeing: where something that is certain for the right teacher does not hold.
        statistics_off: where a stored statistic of the teacher is another one.
        identical: where the entries are those that the store's seed draws; for top-k and top-p those that agree.
        by_seed: where the entries have more mass in common with what the store's seed draws than with what another
            seed draws; as often as `by_chance` where a third seed drew them.
        by_chance: where they have less.
        deviation: sum of the positions' deviations, in nats.
        variance: of that sum, where the teacher is the right one.
        excess: sum of the positions' excesses.
        excess_square: sum of their squares.
    """

    sequence: int
    positions: int
    disagreeing: int
    statistics_off: int
    identical: int
    by_seed: int
    by_chance: int
    deviation: float = 0.0
    variance: float = 0.0
    excess: float = 0.0
    excess_square: float = 0.0

    @property
    def z(self) -> float:
        """The deviation in standard deviations: about normal where the teacher is the store's, whatever the seed."""
        return self.deviation / math.sqrt(max(self.variance, 1e-12 * max(self.positions, 1)))

    @property
    def z_excess(self) -> float:
        """The excess in its own standard deviations."""
        return self.excess / math.sqrt(self.excess_square) if self.excess_square > 0 else 0.0

    def chance(self, bound: float) -> float:
        """Return the most likely that a right store deviates so much, `bound` being b of Bernstein's inequality."""
        if self.deviation == 0:
            return 1.0
        spread = 2 * (self.variance + bound * abs(self.deviation) / 3)
        return min(1.0, 2 * math.exp(-min(self.deviation**2 / spread, 700.0)))

    @property
    def chance_of_excess(self) -> float:
        """The most likely that a right store has such an excess."""
        return min(1.0, 2 * math.exp(-min(self.z_excess**2 / 2, 700.0)))

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON."""
        return asdict(self) | {"z": self.z, "z_excess": self.z_excess}


def total_of(scores: Sequence[Score]) -> Score:
    """Return the score of several sequences together."""
    names = [field.name for field in fields(Score) if field.name != "sequence"]
    return Score(-1, **{name: sum(getattr(score, name) for score in scores) for name in names})


@dataclass(frozen=True)
class Judge:
    """Says what is wrong with a score.

    Attributes:
        tolerance: what the teacher's dtype lets differ.
        bound: see `deviation_bound`.
        num_sequences: sequences that are judged, beside their total.
        drawn_with: the seed that the store records, in words; None where it records none, or the sampler uses none.
    """

    tolerance: Tolerance
    bound: float
    num_sequences: int
    drawn_with: str | None

    def findings(self, scores: Sequence[Score]) -> list[Finding]:
        """Return what is wrong with all sequences together, or else with single ones."""
        total = total_of(scores)
        if in_all := self._faults_of_distribution(total) or self._faults_of_seed(total):
            return [self._finding_of_all(*in_all, scores)]
        alone = [(score, fault) for score in scores if (fault := self._faults(score))]
        # sequences of another seed stand for themselves; they would make the teacher look like another one
        others = [score for score in scores if not self._faults_of_seed(score)]
        if others and (in_all := self._faults_of_draw(total_of(others))):
            return [self._finding_of_all(*in_all, scores)]
        return [Finding(kind, f"sequence {score.sequence}", text) for score, (kind, text) in alone]

    def _finding_of_all(self, kind: str, text: str, scores: Sequence[Score]) -> Finding:
        alone = sum(self._faults(score) is not None for score in scores)
        return Finding(kind, "all sequences", f"{text} ({alone} of {len(scores)} sequences show it by themselves.)")

    def _faults(self, score: Score) -> tuple[str, str] | None:
        """Return kind and message of what is wrong with a score."""
        return self._faults_of_distribution(score) or self._faults_of_seed(score) or self._faults_of_draw(score)

    def _faults_of_distribution(self, score: Score) -> tuple[str, str] | None:
        share, texts = _share(score), []
        if _are_many(score.disagreeing, score.positions, share):
            texts.append(f"{_percent(score.disagreeing, score.positions)} of the positions cannot be this teacher's")
        if _are_many(score.statistics_off, score.positions, share):
            texts.append(f"{_percent(score.statistics_off, score.positions)} of the stored statistics are another's")
        chance, least = score.chance(self.bound), FALSE_ALARM / (2 * self.num_sequences + 2)
        mean = score.deviation / max(score.positions, 1)
        if chance < least and abs(mean) > self.tolerance.deviation:
            texts.append(f"the entries deviate by {mean:+.3g} nats a position, z = {score.z:.1f} (chance {chance:.0e})")
        chance, mean = score.chance_of_excess, score.excess / max(score.positions, 1)
        if chance < least and abs(mean) > self.tolerance.excess:
            texts.append(f"they lie {mean:+.3g} further off than drawn, z = {score.z_excess:.1f} (chance {chance:.0e})")
        if not texts:
            return None
        advice = "The teacher, its tokenizer, or the place of each target is not the one that made the store."
        return "teacher-disagrees", f"{'; '.join(texts)}. {advice}"

    def _faults_of_seed(self, score: Score) -> tuple[str, str] | None:
        """Return what is wrong with entries of the right distribution that another seed drew."""
        is_telling = score.by_seed + score.by_chance >= _LEAST_TELLING
        if self.drawn_with is None or not is_telling or score.by_seed > 2 * score.by_chance:
            return None
        text = (
            f"the entries are this teacher's, but not drawn with {self.drawn_with}, as the manifest records: "
            f"{score.by_seed} positions are more like that draw, {score.by_chance} more like that of another seed."
        )
        return "seed-disagrees", text

    def _faults_of_draw(self, score: Score) -> tuple[str, str] | None:
        """Return what is wrong with entries that the right seed drew from a distribution that is nearly right."""
        least, others = self.tolerance.identical, score.positions - score.identical
        if (
            self.drawn_with is None
            or least is None
            or not _are_many(others, score.positions, max(_share(score), 1 - least))
        ):
            return None
        text = (
            f"only {_percent(score.identical, score.positions)} of the positions have the entries that {self.drawn_with} "
            "draws. The teacher is like the store's, but not the same: another revision?"
        )
        return "teacher-disagrees", text


@dataclass(frozen=True)
class Rescore:
    """What `rescore_store` found.

    Attributes:
        teacher: who was run.
        scores: of each sequence that was run again.
        findings: what is wrong; nothing, where the list is empty.
        differing: fields of the teacher's provenance that are not as recorded, with both values.
        bound: see `deviation_bound`.
        drawn_with: the seed that the store records, in words, where its draw can be repeated.
        is_sample: the sampler is an unbiased one.
    """

    teacher: str
    scores: list[Score]
    findings: list[Finding]
    differing: dict[str, list[Any]]
    bound: float
    drawn_with: str | None
    is_sample: bool

    @property
    def total(self) -> Score:
        """The sequences together."""
        return total_of(self.scores)

    @property
    def verdict(self) -> str:
        """What it comes to, in words."""
        total = self.total
        if not self.scores:
            return f"{self.teacher} was not run: it cannot be the store's teacher."
        ran = f"{self.teacher} ran again over {len(self.scores)} sequences ({total.positions} positions)"
        parts = []
        if self.drawn_with is not None or not self.is_sample:
            what = f"the entries that {self.drawn_with} draws" if self.is_sample else "its entries"
            parts.append(f"{_percent(total.identical, total.positions)} of them have {what}")
        if self.is_sample:
            mean = total.deviation / max(total.positions, 1)
            parts.append(f"the deviation is {mean:+.2g} nats a position, z = {total.z:.2f} and {total.z_excess:.2f}")
        end = "this does not agree with the store." if self.findings else "the store agrees with this teacher."
        note = ""
        if self.differing:
            note = f" Recorded otherwise are: {', '.join(self.differing)}."
        return f"{ran}: {', '.join(parts)}: {end}{note}"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON."""
        total = self.total
        positions = max(total.positions, 1)
        drawn = self.drawn_with is not None or not self.is_sample
        return {
            "teacher": self.teacher,
            "sequences": [score.sequence for score in self.scores],
            "positions": total.positions,
            "identical_share": total.identical / positions if drawn and self.scores else None,
            "disagreeing_share": total.disagreeing / positions,
            "statistics_off_share": total.statistics_off / positions,
            "z": total.z if self.is_sample and self.scores else None,
            "chance": total.chance(self.bound) if self.is_sample and self.scores else None,
            "z_excess": total.z_excess if self.is_sample and self.scores else None,
            "chance_of_excess": total.chance_of_excess if self.is_sample and self.scores else None,
            "deviation_nats": total.deviation / positions if self.is_sample and self.scores else None,
            "by_sequence": [score.to_dict() for score in self.scores],
            "differing_fields": self.differing,
            "verdict": self.verdict,
        }


def _share(score: Score) -> float:
    return _MOST_OF_ALL if score.sequence < 0 else _MOST_OF_ONE


def _are_many(count: int, positions: int, share: float) -> bool:
    return count > max(share * positions, _SOME)


def _percent(count: int, positions: int) -> str:
    return f"{100 * count / max(positions, 1):.4g} %"
