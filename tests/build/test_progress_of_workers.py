"""The progress bar of one process counts what all processes make."""

import pytest

from logitstore.build import run_units
from logitstore.progress import Progress
from tests.build.test_workers import stopped
from tests.support.small_builds import PER_UNIT, SEQ_LEN, build, write_data
from tests.torture.builders import join

UNIT, UNITS = PER_UNIT * SEQ_LEN, 10


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


@pytest.fixture
def bars(monkeypatch):
    shown = []

    class Recorded(Progress):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.seen = []
            shown.append(self)

        def advance(self, amount=1, *, note=""):
            super().advance(amount, note=note)
            self.seen.append(self.done)

    monkeypatch.setattr(run_units, "Progress", Recorded)
    return shown


def beside(monkeypatch, at, others):
    """Let another process commit the units `others` while this one is at unit `at`; return the units made here."""
    real, made = run_units.run_unit, []

    def run_unit(store, unit, maker, on_sequence):
        made.append(unit)
        for other in others if unit == at else ():
            real(store, other, maker, lambda positions, writer: None)
        real(store, unit, maker, on_sequence)

    monkeypatch.setattr(run_units, "run_unit", run_unit)
    return made


def check(bar, total):
    assert bar.total == total
    assert bar.seen == sorted(bar.seen)
    assert bar.done == total


def test_a_process_alone_counts_its_own_positions(tmp_path, data, bars):
    build(tmp_path / "s", data)
    check(bars[0], UNITS * UNIT)
    assert len(bars[0].seen) > UNITS * PER_UNIT  # sequence by sequence


def test_units_of_other_processes_are_counted_when_the_next_unit_is_taken(tmp_path, data, bars, monkeypatch):
    made = beside(monkeypatch, 2, [5, 6, 9])
    build(tmp_path / "s", data)
    assert made == [0, 1, 2, 3, 4, 7, 8]
    check(bars[0], UNITS * UNIT)
    jumps = {after - before for before, after in zip(bars[0].seen, bars[0].seen[1:], strict=False)}
    assert jumps == {0, SEQ_LEN, 3 * UNIT}


def test_who_joins_counts_what_is_left(tmp_path, data, bars, monkeypatch):
    stopped(tmp_path, data, monkeypatch, after=4)
    beside(monkeypatch, 6, [7])
    join(tmp_path / "s")
    check(bars[1], (UNITS - 4) * UNIT)


def test_a_unit_that_another_process_commits_first_is_counted_once(tmp_path, data, bars, monkeypatch):
    stopped(tmp_path, data, monkeypatch, after=0)  # its claim stands, and is shared by who comes last
    made = beside(monkeypatch, 0, [0])
    join(tmp_path / "s")
    assert made[-1] == 0
    check(bars[1], UNITS * UNIT)
