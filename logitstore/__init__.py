"""logitstore: a teacher-logit cache and sparse knowledge-distillation engine.

This module is the public door. Names are imported when they are first used, so `import logitstore` is quick and needs
neither zarr nor transformers.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitstore import samplers as samplers
    from logitstore import training as training
    from logitstore.build.local import build as build
    from logitstore.errors import InvalidInput as InvalidInput
    from logitstore.errors import LogitstoreError as LogitstoreError
    from logitstore.errors import StoreError as StoreError
    from logitstore.errors import TeacherError as TeacherError
    from logitstore.loader import LogitDataset as LogitDataset
    from logitstore.loader import make_dataloader as make_dataloader
    from logitstore.losses import linear_sparse_kd_loss as linear_sparse_kd_loss
    from logitstore.losses import sparse_kd_loss as sparse_kd_loss
    from logitstore.store import create_store as create_store
    from logitstore.store import open_store as open_store
    from logitstore.store import verify_store as verify_store
    from logitstore.targets import SparseTargets as SparseTargets

__version__ = version("logitstore")

#: public name -> module that has it; None where the name is the module itself
_HOMES = {
    "InvalidInput": "logitstore.errors",
    "LogitDataset": "logitstore.loader",
    "LogitstoreError": "logitstore.errors",
    "SparseTargets": "logitstore.targets",
    "StoreError": "logitstore.errors",
    "TeacherError": "logitstore.errors",
    "build": None,
    "create_store": "logitstore.store",
    "linear_sparse_kd_loss": "logitstore.losses",
    "make_dataloader": "logitstore.loader",
    "open_store": "logitstore.store",
    "samplers": None,
    "sparse_kd_loss": "logitstore.losses",
    "training": None,
    "verify_store": "logitstore.store",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'logitstore' has no attribute {name!r}")
    home = _HOMES[name]
    if home is None:
        return importlib.import_module(f"logitstore.{name}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
