import click
import pytest

from logitstore.cli.main import run
from logitstore.cli.statistics_option import StatisticNames
from logitstore.samplers import Threshold, teacher_statistics
from logitstore.store import create_store
from logitstore.targets import STATISTIC_FIELDS


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", ()),
        ("entropy", ("entropy",)),
        ("entropy,label-probability,top1-probability", tuple(STATISTIC_FIELDS)),
        ("top1-probability, entropy,entropy", ("entropy", "top1_probability")),
        ("label_probability", ("label_probability",)),
        ((), ()),
    ],
)
def test_names_are_read_as_build_takes_them(text, names):
    assert StatisticNames().convert(text, None, None) == names


@pytest.mark.parametrize("text", ["loss", "entropy,", "none,entropy", ""])
def test_names_that_do_not_exist_are_refused_with_those_that_do(text):
    with pytest.raises(click.BadParameter, match="there are entropy, label-probability, top1-probability"):
        StatisticNames().convert(text, None, None)


def test_stats_prints_what_the_teacher_was_like(tmp_path, capsys):
    import torch

    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    targets = Threshold(9)(logits)
    labels = torch.arange(20)
    found = teacher_statistics(logits, labels, STATISTIC_FIELDS)
    fields = {STATISTIC_FIELDS[name]: values for name, values in found.items()}
    with create_store(tmp_path / "s", vocab_size=50, sampler=Threshold(9)) as writer:
        writer.append(labels, type(targets)(**{**vars(targets), **fields}))
    assert run(["stats", str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    for name in ("teacher", "entropy", "loss", "top1_accuracy", "calibration_error", "statistics"):
        assert name in shown
