"""Imported last by a server of processes: what it has imported is left out of their collections.

A collection looks at every object, so each process would get its own copy of all their pages.
"""

from __future__ import annotations

import gc

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

# Each process that loads a model would compile a thousand regular expressions.
get_checkpoint_conversion_mapping("llama")
gc.collect()
gc.freeze()
