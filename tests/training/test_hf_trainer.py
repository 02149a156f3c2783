"""The plugin in a real Trainer, against loops written by hand."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from logitstore.errors import InvalidInput, StoreError
from logitstore.loader import LogitDataset
from logitstore.losses import sparse_kd_loss
from logitstore.targets import PaddedTargets
from logitstore.training import TrainerLabels, TrainerPlugin
from tests.loader.small_stores import VOCAB_SIZE, make_store

transformers = pytest.importorskip("transformers")

#: Trainer divides a sum, the loop below takes a mean: float32 rounding over a few steps
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
LEARNING_RATE = 0.5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("trainer") / "store"
    # positions in two halves differ: the mean of their means is not the mean over all
    store = make_store(path, [9, 1, 7, 8, 9, 9, 9, 9], masked=[(0, 0), (0, 1), (2, 3)], document_starts=[0, 4])
    return LogitDataset(store, shuffle=False, rank=0, world_size=1)


def small_llama(vocab_size=VOCAB_SIZE):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return transformers.LlamaForCausalLM(config)


def trainer_for(model, dataset, plugin, output_dir, *, eval_dataset=None, **arguments):
    options = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "max_steps": 1, **arguments}
    args = transformers.TrainingArguments(
        output_dir=str(output_dir),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    return transformers.Trainer(
        model=model,
        args=args,
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        data_collator=plugin.collate,
        compute_loss_func=plugin.compute_loss,
    )


def losses_logged(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def loss_by_hand(model, dataset, **options):
    batch = dataset.collate([dataset[index] for index in range(len(dataset))])
    logits = model(input_ids=batch.tokens, attention_mask=batch.attention_mask).logits
    return sparse_kd_loss(logits, batch.targets, batch.labels, **options)


def train_by_hand(model, dataset, num_steps, **options) -> list[float]:
    losses = []
    for _ in range(num_steps):
        loss = loss_by_hand(model, dataset, **options)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= LEARNING_RATE * gradient
    return losses


def largest_difference(model, other) -> float:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max(float((one - two).detach().abs().max()) for one, two in pairs)


def assert_same_parameters(model, other) -> None:
    for (name, found), wanted in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("alpha", [1.0, 0.6])
def test_three_steps_of_trainer_equal_three_steps_by_hand(dataset, tmp_path, alpha):
    model = small_llama()
    by_hand = copy.deepcopy(model)
    trainer = trainer_for(model, dataset, TrainerPlugin(dataset, alpha=alpha), tmp_path, max_steps=3)
    trainer.train()
    wanted = train_by_hand(by_hand, dataset, 3, alpha=alpha)
    assert losses_logged(trainer) == pytest.approx(wanted, rel=1e-4)
    assert wanted[2] < wanted[0]
    assert_same_parameters(model, by_hand)


def test_accumulating_two_halves_equals_one_batch(dataset, tmp_path):
    whole, halves, mean_of_means = (small_llama() for _ in range(3))
    start = copy.deepcopy(whole)
    plugin = TrainerPlugin(dataset, alpha=0.6)
    two_halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer_for(whole, dataset, plugin, tmp_path).train()
    trainer = trainer_for(halves, dataset, plugin, tmp_path, **two_halves, dataloader_num_workers=1)
    trainer.train()
    assert_same_parameters(halves, whole)
    assert losses_logged(trainer) == pytest.approx([loss_by_hand(start, dataset, alpha=0.6).item()], rel=1e-4)

    # the control: each half divided by its own positions
    control = trainer_for(mean_of_means, dataset, plugin, tmp_path, **two_halves)
    control.compute_loss_func = lambda outputs, labels, num_items_in_batch: plugin.compute_loss(outputs, labels) / 2
    control.train()
    assert largest_difference(mean_of_means, whole) > 100 * largest_difference(halves, whole)


def test_evaluate_reports_the_mean_loss(dataset, tmp_path):
    model = small_llama()
    other = LogitDataset(make_store(tmp_path / "other", [5, 3, 8], masked=[(1, 1)]), rank=0, world_size=1)
    plugin = TrainerPlugin(dataset, alpha=0.3)
    metrics = trainer_for(model, dataset, plugin, tmp_path, eval_dataset=other).evaluate()
    with torch.no_grad():
        wanted = float(loss_by_hand(model.eval(), other, alpha=0.3))
    assert metrics["eval_loss"] == pytest.approx(wanted, rel=1e-5)


def test_without_num_items_the_loss_is_the_mean_over_the_batch(dataset):
    model = small_llama()
    plugin = TrainerPlugin(dataset)
    batch = plugin.collate([dataset[index] for index in range(8)])
    labels = batch.pop("labels")
    wanted = loss_by_hand(model, dataset)
    for outputs in (model(**batch), model(**batch, return_dict=False)):
        torch.testing.assert_close(plugin.compute_loss(outputs, labels), wanted)


def test_a_step_without_any_target_has_loss_zero(dataset):
    plugin = TrainerPlugin(dataset)
    labels = TrainerLabels(dataset[0].targets.slice(0, 2), torch.tensor([[-100, -100]]))
    logits = torch.randn(1, 2, VOCAB_SIZE, requires_grad=True)
    loss = plugin.compute_loss({"logits": logits}, labels, num_items_in_batch=labels.ne(-100).sum())
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


def test_positions_with_a_target_are_counted_in_every_form(dataset):
    batch = dataset.collate([dataset[0], dataset[1], dataset[2]])
    labels = TrainerLabels(batch.targets, batch.labels)
    padded = TrainerLabels(batch.targets.to_padded(), batch.labels)
    assert isinstance(padded.targets, PaddedTargets)
    for each in (labels, padded, labels[..., 1:], labels.to("cpu")):
        assert int(each.ne(-100).sum()) == (9 - 2) + 1 + (7 - 1)


def test_labels_move_with_their_targets(dataset):
    batch = TrainerPlugin.collate([dataset[0]])
    moved = batch["labels"].to("meta", non_blocking=True)
    assert moved.labels.device.type == moved.targets.ids.device.type == moved.targets.offsets.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_labels_are_pinned_with_their_targets(dataset):
    pinned = TrainerPlugin.collate([dataset[0]])["labels"].pin_memory()
    assert pinned.labels.is_pinned()
    assert pinned.targets.weights.is_pinned()


def test_a_dataset_that_shards_by_itself_is_refused(dataset):
    sharded = LogitDataset(dataset.store, rank=1, world_size=2)
    with pytest.raises(InvalidInput, match=r"rank 1 of 2.*rank=0, world_size=1"):
        TrainerPlugin(sharded)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"alpha": 1.5}, "alpha"), ({"temperature": 2.0}, "temperature"), ({"value": "kl"}, "entropy")],
)
def test_options_that_do_not_fit_are_refused_before_training(dataset, options, text):
    with pytest.raises(InvalidInput, match=text):
        TrainerPlugin(dataset, **options)


def test_a_student_with_too_small_a_vocabulary_is_refused(dataset):
    plugin = TrainerPlugin(dataset)
    labels = plugin.collate([dataset[1]])["labels"]
    with pytest.raises(StoreError, match="39 columns") as caught:
        plugin.compute_loss({"logits": torch.zeros(1, 1, VOCAB_SIZE - 1)}, labels)
    assert caught.value.kind == "alignment-mismatch"


@pytest.mark.parametrize("labels", [None, torch.zeros(1, 1, dtype=torch.int64)])
def test_batches_of_another_collator_are_refused(dataset, labels):
    with pytest.raises(InvalidInput, match=r"data_collator=plugin\.collate"):
        TrainerPlugin(dataset).compute_loss({"logits": torch.zeros(1, 1, VOCAB_SIZE)}, labels)


def test_several_gpus_in_one_process_are_refused(dataset):
    plugin = TrainerPlugin(dataset)
    labels = plugin.collate([dataset[1]])["labels"]
    with pytest.raises(InvalidInput, match=r"2 GPUs in one process.*torchrun"):
        plugin.compute_loss({"logits": torch.zeros(1, 1, VOCAB_SIZE)}, labels, torch.tensor([[3], [3]]))


def test_importing_the_training_room_does_not_load_transformers():
    code = "import sys, logitstore.training; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
