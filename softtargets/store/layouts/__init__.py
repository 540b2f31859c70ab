"""Stores in the layouts of other people's trainers, and stores of them; see docs/formats.md."""

from softtargets.store.layouts.axolotl import Axolotl
from softtargets.store.layouts.compression import Compression
from softtargets.store.layouts.distillkit import DistillKit
from softtargets.store.layouts.entries import Stated
from softtargets.store.layouts.export import export_axolotl, export_distillkit, export_plain
from softtargets.store.layouts.imports import import_lists
from softtargets.store.layouts.plain_store import import_plain
from softtargets.store.layouts.token_logits import TokenLogits

__all__ = [
    "Axolotl",
    "Compression",
    "DistillKit",
    "Stated",
    "TokenLogits",
    "export_axolotl",
    "export_distillkit",
    "export_plain",
    "import_lists",
    "import_plain",
]
