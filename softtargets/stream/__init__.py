"""Feeds a store to any student trainer."""

from softtargets.stream.batch import IGNORE_INDEX, Batch, BatchTargets
from softtargets.stream.collate import collate
from softtargets.stream.dataset import SoftTargetDataset
from softtargets.stream.mixture import Mixture
from softtargets.stream.repack import Piece, repack

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "BatchTargets",
    "Mixture",
    "Piece",
    "SoftTargetDataset",
    "collate",
    "repack",
]
