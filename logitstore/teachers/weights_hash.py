"""A hash that says whether two teachers have the same weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

#: bytes copied from the device at a time
CHUNK_BYTES = 64 << 20


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over name, dtype, shape and bytes of every tensor, in the order of the names.

    Tensors are read in chunks, so no second copy of the weights is made. Tied weights are read once.
    """
    total = hashlib.sha256()
    known: dict[tuple[object, ...], bytes] = {}
    for name in sorted(state):
        tensor = state[name].detach()
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in known:
            known[place] = _hash_bytes(tensor)
        total.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        total.update(known[place])
    return total.hexdigest()


def _hash_bytes(tensor: Tensor) -> bytes:
    digest = hashlib.sha256()
    # numpy knows no bfloat16, but every dtype is bytes
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    for start in range(0, len(flat), CHUNK_BYTES):
        digest.update(flat[start : start + CHUNK_BYTES].cpu().numpy().data)
    return digest.digest()
