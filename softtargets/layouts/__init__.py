"""How other tools store soft targets; docs/formats.md says what each layout keeps and loses.

A layout is a class in a module of its own, which is imported when it is asked for.
"""

from softtargets.layouts.layout import Layout, Option, Way
from softtargets.layouts.registry import export_store, find_layout, import_store

__all__ = ["Layout", "Option", "Way", "export_store", "find_layout", "import_store"]
