"""What is on disk. Opens, checks and copies stores without torch or transformers.

What has to do with layouts of other tools is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from softtargets.store.derivation import filter_store, merge_stores, split_store
from softtargets.store.invariants import Problem
from softtargets.store.store import Store, StoreView
from softtargets.store.verification import VerifyReport, verify

if TYPE_CHECKING:
    from softtargets.store.layouts import (
        Stated,
        export_axolotl,
        export_distillkit,
        export_plain,
        import_lists,
        import_plain,
    )

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("softtargets.store.layouts"), name)
