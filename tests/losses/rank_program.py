"""What one rank of a process group of two runs; started by test_loss_ranks.py as `python rank_program.py RANK FOLDER`."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))

from logitstore.errors import InvalidInput
from logitstore.losses import linear_sparse_kd_loss, vocab_parallel_sparse_kd_loss
from tests.losses.rank_inputs import COLUMNS, OPTIONS, Student, StudentWithLoss, batch_of_rank, wide_batch


def ddp(rank):
    """The gradients that the ranks agree on under DDP, with the head tied to the embedding and without."""
    grads = {}
    for tied in (True, False):
        student = Student(tied=tied)
        model = DistributedDataParallel(student)
        tokens, targets = batch_of_rank(rank)
        linear_sparse_kd_loss(model(tokens), student.head_weight, targets).backward()
        grads[tied] = {name: parameter.grad for name, parameter in student.named_parameters()}
    return grads


def fsdp(rank):
    """The gradients under FSDP2, by how the loss is reduced and whether the head is tied to the embedding."""
    grads = {}
    for reduction in ("mean", "none"):
        for tied in (True, False):
            student = fully_shard(StudentWithLoss(tied=tied), mesh=init_device_mesh("cpu", (2,)))
            tokens, targets = batch_of_rank(rank)
            student(tokens, targets, reduction).sum().backward()
            grads[reduction, tied] = {
                name: parameter.grad.full_tensor() for name, parameter in student.named_parameters()
            }
    return grads


def fsdp_outside(rank):
    """What is said where the head's weight is not gathered, and the loss where it is gathered by hand."""
    student = fully_shard(StudentWithLoss(tied=False), mesh=init_device_mesh("cpu", (2,)))
    tokens, targets = batch_of_rank(rank)
    hidden = torch.ones(len(tokens), 5, dtype=torch.float64)
    by_hand = linear_sparse_kd_loss(hidden, student.head.full_tensor(), targets)
    by_hand.backward()
    try:
        linear_sparse_kd_loss(hidden, student.head, targets)
    except InvalidInput as refusal:
        return str(refusal), by_hand.detach(), student.head.grad.full_tensor()
    return "nothing", by_hand.detach(), None


def vocab_parallel(rank):
    """Losses and gradients at the rank's own columns, for each set of options."""
    results = {}
    first, last = COLUMNS[rank]
    for name, options in OPTIONS.items():
        logits, targets, labels = wide_batch()
        for form, vocab_size in (("csr", None), ("padded", logits.shape[1]), ("dtensor", logits.shape[1])):
            local = logits[:, first:last].clone().requires_grad_()
            given = local
            if form == "dtensor":
                given = DTensor.from_local(local, init_device_mesh("cpu", (2,)), [Shard(1)]).to_local()
            loss = vocab_parallel_sparse_kd_loss(
                given,
                targets.to_padded(7) if form == "padded" else targets,
                labels,
                first_column=first,
                vocab_size=vocab_size,
                **options,
            )
            (grad,) = torch.autograd.grad(loss.sum(), local)
            results[name, form] = loss.detach(), grad
    return results


def gap(rank):
    """What is said where a column is on no rank."""
    logits, targets, labels = wide_batch()
    first, last = COLUMNS[rank]
    try:
        vocab_parallel_sparse_kd_loss(logits[:, first:last], targets, labels, first_column=first + rank)
    except InvalidInput as refusal:
        return str(refusal)
    return "nothing"


PROGRAMS = (ddp, fsdp, fsdp_outside, vocab_parallel, gap)


def main():
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    results = {program.__name__: program(rank) for program in PROGRAMS}
    torch.save(results, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
