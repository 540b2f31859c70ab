"""The teacher's layers of a store, read and checked."""

from __future__ import annotations

from softtargets.errors import InputError
from softtargets.store.layer_file import LAYERS_NAME, decode_layers
from softtargets.store.side_file import read_side_file
from softtargets.store.store import Store
from softtargets.targets import LayerWeights


def read_layers(store: Store) -> LayerWeights:
    """Return the teacher's layers, which are run again on the features layer_N.

    Raises:
        InputError: the store has none.
        CorruptionError: their file is not what was committed.
    """
    schema, entry = store.targets.layers, store.manifest.layers
    if schema is None or entry is None:
        raise InputError(
            str(store.location),
            expected="a store with weights of the teacher's layers",
            found=f"{store.targets.describe()}",
            next_step="Build the store with --rerun-layers.",
        )
    content = read_side_file(store.location, LAYERS_NAME, entry)
    return decode_layers(content, schema, store.location.where(LAYERS_NAME))
