"""Which logits the samplers hand to the kernels, where Triton does not interpret."""

import sys
from types import SimpleNamespace

import pytest
import torch

from logitstore.samplers import column_blocks
from logitstore.samplers.column_blocks import kernels_for

ON_A_GPU = SimpleNamespace(device=torch.device("cuda"))


@pytest.fixture(autouse=True)
def forget():
    column_blocks._triton_kernels.cache_clear()
    yield
    column_blocks._triton_kernels.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_logits_on_a_cpu_go_through_torch(dtype):
    assert kernels_for(torch.zeros(1, 3, dtype=dtype)) is None


def test_without_triton_logits_on_a_gpu_go_through_torch(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'triton'", name="triton.language")

    monkeypatch.setattr(column_blocks.importlib, "import_module", missing)
    assert kernels_for(ON_A_GPU) is None


def test_another_module_that_is_missing_is_no_reason_to_go_through_torch(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(column_blocks.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="logit_blocks"):
        kernels_for(ON_A_GPU)


@pytest.mark.parametrize("served", [True, False])
def test_on_a_gpu_the_kernels_say_what_they_serve(monkeypatch, served):
    pytest.importorskip("triton")
    asked = []
    kernels = SimpleNamespace(serves=lambda logits: (asked.append(logits), served)[1])
    monkeypatch.setitem(sys.modules, "logitstore.triton_kernels.logit_blocks", kernels)
    assert kernels_for(ON_A_GPU) is (kernels if served else None)
    assert asked == [ON_A_GPU]
