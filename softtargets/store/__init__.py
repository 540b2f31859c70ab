"""What is on disk. Opens, checks and copies stores without torch or transformers."""

from softtargets.store.derive import filter_store, merge_stores, split_store
from softtargets.store.export import export_plain
from softtargets.store.invariants import Problem
from softtargets.store.store import Store
from softtargets.store.verify import VerifyReport, verify
from softtargets.store.view import StoreView

__all__ = [
    "Problem",
    "Store",
    "StoreView",
    "VerifyReport",
    "export_plain",
    "filter_store",
    "merge_stores",
    "split_store",
    "verify",
]
