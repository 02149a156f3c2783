import pytest
import torch

from logitstore.losses import huge_pages
from logitstore.losses.huge_pages import empty_in_huge_pages


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 1000), (1500, 1000)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_it_is_a_plain_tensor_that_can_be_written_and_read(shape, dtype):
    tensor = empty_in_huge_pages(torch.Size(shape), dtype)
    assert (tensor.shape, tensor.dtype) == (shape, dtype)
    assert tensor.is_contiguous()
    assert bool((tensor.fill_(2.0) == 2).all())


def test_only_whole_pages_within_the_tensor_are_advised_about(monkeypatch):
    asked = []
    monkeypatch.setattr(huge_pages, "_madvise", lambda: lambda *arguments: asked.append(arguments))
    empty_in_huge_pages(torch.Size((1000,)), torch.float32)
    assert asked == []
    tensor = empty_in_huge_pages(torch.Size((2_000_000,)), torch.float32)
    ((first, length, _),) = asked
    assert first % 2**21 == length % 2**21 == 0
    assert tensor.data_ptr() <= first
    assert first + length <= tensor.data_ptr() + tensor.nbytes


def test_without_madvise_there_are_ordinary_pages(monkeypatch):
    monkeypatch.setattr(huge_pages, "_madvise", lambda: None)
    assert empty_in_huge_pages(torch.Size((2_000_000,)), torch.float32).fill_(1.0).sum() == 2_000_000
