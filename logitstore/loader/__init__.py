"""From a store to batches: the order of an epoch, a map-style dataset, and a loader that can be resumed."""

from logitstore.loader.batch import Batch, Sample, collate_samples
from logitstore.loader.dataloader import LogitDataLoader, make_dataloader
from logitstore.loader.dataset import LogitDataset
from logitstore.loader.order import EpochOrder, epoch_order

__all__ = [
    "Batch",
    "EpochOrder",
    "LogitDataLoader",
    "LogitDataset",
    "Sample",
    "collate_samples",
    "epoch_order",
    "make_dataloader",
]
