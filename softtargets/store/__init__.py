"""What is on disk. Opens, checks and copies stores without torch or transformers."""

from softtargets.store.derivation import filter_store, merge_stores, split_store
from softtargets.store.invariants import Problem
from softtargets.store.layouts import (
    Stated,
    export_axolotl,
    export_distillkit,
    export_plain,
    import_lists,
    import_plain,
)
from softtargets.store.store import Store, StoreView
from softtargets.store.verification import VerifyReport, verify

__all__ = [
    "Problem",
    "Stated",
    "Store",
    "StoreView",
    "VerifyReport",
    "export_axolotl",
    "export_distillkit",
    "export_plain",
    "filter_store",
    "import_lists",
    "import_plain",
    "merge_stores",
    "split_store",
    "verify",
]
