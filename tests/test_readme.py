"""What the README shows runs."""

import re
from pathlib import Path

import pytest
import torch

import logitstore
from tests.support.stores import VOCAB_SIZE, make_store

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.S)


class Student(torch.nn.Module):
    """A student with the interface of a Hugging Face model."""

    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"vocab_size": VOCAB_SIZE})
        self.table = torch.nn.Embedding(VOCAB_SIZE, VOCAB_SIZE)

    def forward(self, input_ids):
        return type("Output", (), {"logits": self.table(input_ids)})


def test_the_training_example_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_store("my-store", lengths=[9] * 20)
    torch.manual_seed(0)
    student = Student()
    before = student.table.weight.detach().clone()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    assert len(EXAMPLES[0].strip().splitlines()) <= 10
    scope = {"student": student, "optimizer": optimizer}
    exec(EXAMPLES[0], scope)
    assert bool(torch.isfinite(scope["loss"]))
    assert not torch.equal(before, student.table.weight)


def test_the_writer_example_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(EXAMPLES[1], {"logits": torch.randn(5, 30), "tokens": [1, 2, 3, 4, 5]})
    assert len(logitstore.open_store("own-store")[0].tokens) == 5


def test_the_loss_example_gives_one_loss_by_both_ways(tmp_path):
    make_store(tmp_path / "store", lengths=[9] * 4)
    batch = next(iter(logitstore.make_dataloader(logitstore.LogitDataset(tmp_path / "store"), batch_size=4)))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(*batch.tokens.shape, 5, generator=generator).requires_grad_()
    weight = torch.randn(VOCAB_SIZE, 5, generator=generator).requires_grad_()
    scope = {"batch": batch, "hidden": hidden, "weight": weight}
    exec(EXAMPLES[2], scope)
    torch.testing.assert_close(scope["same"], scope["loss"])
    assert bool(weight.grad.any())


@pytest.mark.parametrize("name", ["logitstore/codec/FORMAT.md", "docs/commands.md", "logitstore/demo/data/SOURCE.md"])
def test_files_the_readme_names_are_there(name):
    assert name in (REPOSITORY / "README.md").read_text()
    assert (REPOSITORY / name).is_file()
