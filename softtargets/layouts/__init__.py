"""How other tools store soft targets; docs/formats.md says what each layout keeps and loses.

A layout is a class in a module of its own, which is imported when it is asked for.
"""

from softtargets.layouts.layout import Layout, Option, Way
from softtargets.layouts.listed_import import LIST_OPTIONS, ListedLayout
from softtargets.layouts.listed_rows import ListedRow, read_rows
from softtargets.layouts.registry import export_store, find_layout, import_store, register

__all__ = [
    "LIST_OPTIONS",
    "Layout",
    "ListedLayout",
    "ListedRow",
    "Option",
    "Way",
    "export_store",
    "find_layout",
    "import_store",
    "read_rows",
    "register",
]
