"""Stores on disk: the only room that knows Zarr and the Parquet index."""

from logitstore.store.create import StoreWriter, create_store
from logitstore.store.export import export_store
from logitstore.store.reader import Sequence, Store, open_store
from logitstore.store.statistics import store_statistics
from logitstore.store.verify import Finding, verify_store

__all__ = [
    "Finding",
    "Sequence",
    "Store",
    "StoreWriter",
    "create_store",
    "export_store",
    "open_store",
    "store_statistics",
    "verify_store",
]
