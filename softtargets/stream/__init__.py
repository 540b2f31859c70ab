"""Feeds a store to any student trainer."""

from softtargets.stream.batch import IGNORE_INDEX, Batch, BatchTargets
from softtargets.stream.collate import collate
from softtargets.stream.dataset import SoftTargetDataset

__all__ = ["IGNORE_INDEX", "Batch", "BatchTargets", "SoftTargetDataset", "collate"]
