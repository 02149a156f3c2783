"""Nothing in a loss reads a value off a device, which would make a GPU's host wait; the fused loss does so once.

The meta device has shapes and no values: whatever would wait for a GPU raises on it.
"""

import pytest
import torch

from logitstore.losses import linear_sparse_kd_loss, positions, sparse_kd_loss
from tests.losses.random_targets import random_labels, random_logits, random_targets

COUNTS = [2, 0, 3, 1, 0, 4, 1]
VOCAB, WIDTH = 9, 5
OPTIONS = {
    "plain": {},
    "tempered": {"alpha": 0.5, "temperature": 2.0},
    "kl": {"alpha": 0.5, "value": "kl"},
    "all": {
        "alpha": 0.5, "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 5.0, "missing_mass": "tail",
        "position_weights": torch.linspace(0.5, 2.0, len(COUNTS)),
    },
    "renormalised": {"missing_mass": "renormalise"},
}  # fmt: skip


def on(device, form, **options):
    """Return targets, labels and options on a device."""
    targets = random_targets(COUNTS, VOCAB, sampler="top-k", teacher_entropy=torch.ones(len(COUNTS)))
    targets = targets if form == "csr" else targets.to_padded(5)
    moved = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in options.items()}
    return {"targets": targets.to(device), "labels": random_labels(len(COUNTS), VOCAB).to(device)} | moved


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        lambda x: bool(x > 0),
        lambda x: x[None].nonzero(),
        lambda x: x[None][x[None] > 0],
        lambda x: x[None].tolist(),
        lambda x: x.cpu().item(),
        lambda x: torch.repeat_interleave(x[None], x[None].long()),
    ],
    ids=["item", "bool", "nonzero", "mask", "tolist", "cpu", "repeat"],
)
def test_the_meta_device_would_tell(read):
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.zeros((), device="meta"))


@pytest.mark.parametrize("form", ["csr", "padded"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_loss_over_logits_never_waits(name, reduction, form):
    logits = random_logits(len(COUNTS), VOCAB).to("meta").requires_grad_()
    loss = sparse_kd_loss(logits, reduction=reduction, **on("meta", form, **OPTIONS[name]))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad.shape == (len(COUNTS), VOCAB)


@pytest.fixture
def waits(monkeypatch):
    """Every list asked for; on the meta device the answers are those a run on the CPU got."""
    asked, on_host = [], positions.on_host

    def answer(values):
        asked.append(answer.known if values.device.type == "meta" else on_host(values))
        return list(asked[-1])

    monkeypatch.setattr(positions, "on_host", answer)
    answer.asked = asked
    return answer


@pytest.mark.parametrize("form", ["csr", "padded"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_fused_loss_waits_once_in_forward_and_backward_together(name, reduction, form, waits):
    def step(device):
        head = random_logits(len(COUNTS), WIDTH), random_logits(VOCAB, WIDTH), random_logits(1, VOCAB)[0]
        hidden, weight, bias = (tensor.to(device).requires_grad_() for tensor in head)
        given = on(device, form, **OPTIONS[name]) | {"chunk_bytes": 2 * VOCAB * 8, "reduction": reduction}
        loss = linear_sparse_kd_loss(hidden, weight, bias=bias, **given)
        return torch.autograd.grad(loss.sum(), (hidden, weight, bias))

    step("cpu")
    (waits.known,) = waits.asked
    grads = step("meta")
    assert len(waits.asked) == 2
    assert [grad.shape for grad in grads] == [(len(COUNTS), WIDTH), (VOCAB, WIDTH), (VOCAB,)]
