"""What one rank of a process group of two runs; started by test_loss_ranks.py as `python rank_program.py RANK FOLDER`."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))

from logitstore.errors import InvalidInput
from logitstore.losses import linear_sparse_kd_loss, vocab_parallel_sparse_kd_loss
from tests.losses.rank_inputs import COLUMNS, OPTIONS, Student, batch_of_rank, wide_batch


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


def vocab_parallel(rank):
    """Losses and gradients at the rank's own columns, for each set of options."""
    results = {}
    first, last = COLUMNS[rank]
    for name, options in OPTIONS.items():
        logits, targets, labels = wide_batch()
        for form, vocab_size in (("csr", None), ("padded", logits.shape[1])):
            local = logits[:, first:last].clone().requires_grad_()
            loss = vocab_parallel_sparse_kd_loss(
                local,
                targets if form == "csr" else targets.to_padded(7),
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


def main():
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    results = {program.__name__: program(rank) for program in (ddp, vocab_parallel, gap)}
    torch.save(results, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
