"""Soft targets in their compact form, as they are stored: head, samples, features."""

from softtargets.packing.features import PackedFeature
from softtargets.packing.head import PackedHead, kept_entries
from softtargets.packing.samples import PackedSamples
from softtargets.packing.targets import PackedTargets, pack

__all__ = [
    "PackedFeature",
    "PackedHead",
    "PackedSamples",
    "PackedTargets",
    "kept_entries",
    "pack",
]
