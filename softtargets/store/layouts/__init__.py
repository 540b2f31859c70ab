"""Where layouts were at first: their names are found here still, and in `softtargets.store`."""

from softtargets.layouts.axolotl import Axolotl, export_axolotl
from softtargets.layouts.distillkit import DistillKit, export_distillkit
from softtargets.layouts.distillkit_compression import Compression
from softtargets.layouts.listed_import import import_lists
from softtargets.layouts.plain import export_plain, import_plain
from softtargets.layouts.stated import Stated
from softtargets.layouts.token_logits import TokenLogits

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
