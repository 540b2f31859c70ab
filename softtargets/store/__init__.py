"""What is on disk. Opens, checks and copies stores without torch or transformers.

What has to do with layouts of other tools is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from softtargets.store.cleaning import clean_store
from softtargets.store.derivation import filter_store, merge_stores, split_store
from softtargets.store.invariants import Problem
from softtargets.store.store import Store, StoreView
from softtargets.store.verification import VerifyReport, verify

if TYPE_CHECKING:
    from softtargets.layouts.axolotl import export_axolotl
    from softtargets.layouts.distillkit import export_distillkit
    from softtargets.layouts.listed_import import import_lists
    from softtargets.layouts.plain import export_plain, import_plain
    from softtargets.layouts.stated import Stated

__all__ = [
    "Problem",
    "Stated",
    "Store",
    "StoreView",
    "VerifyReport",
    "clean_store",
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


_HOMES = {
    "Stated": "stated",
    "export_axolotl": "axolotl",
    "export_distillkit": "distillkit",
    "export_plain": "plain",
    "import_lists": "listed_import",
    "import_plain": "plain",
}
"""Modules of the names that have to do with layouts, which were here at first."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"softtargets.layouts.{_HOMES[name]}"), name)
