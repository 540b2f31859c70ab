"""Imported last by a server of processes: what it has imported is left out of their collections.

A collection looks at every object, so each process would get its own copy of all their pages.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
