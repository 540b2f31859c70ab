"""What a target is: its parts, how they are stored, and how people compute with them.

A target has three forms. In a store it is cells, one of each column (`PackedTargets`). People
compute with `SoftTargets`. A `Batch` of softtargets.stream has tensors. A file of this folder owns
each part in the first two: its schema, its columns, packing, checks and words. `TargetSchema` lists
the parts. Everything here is numpy.
"""

from softtargets.targets.arrays import (
    Array,
    Bool,
    Cells,
    Columns,
    Float16,
    Float32,
    Float64,
    Int8,
    Int32,
    Int64,
    Offsets,
    UInt8,
    UInt16,
)
from softtargets.targets.classes import UNKNOWN_LABEL, Classes, ClassProblem
from softtargets.targets.conventions import (
    DEFAULT_CONVENTION,
    NEXT_TOKEN,
    TOKEN,
    WINDOW,
    Convention,
    Predicts,
    input_labels,
)
from softtargets.targets.drawn_ids import Draws, DrawsSchema
from softtargets.targets.entry_bytes import kept_entries
from softtargets.targets.entry_lists import EntryLists
from softtargets.targets.entry_planes import EntryPlanes
from softtargets.targets.evidence import Origin
from softtargets.targets.exact_entries import DEFAULT_STEP, Entries, EntriesSchema
from softtargets.targets.features import LAST_HIDDEN, Features, FeatureSchema
from softtargets.targets.grid import Grid, temperature_text
from softtargets.targets.head_weights import HeadWeights, HeadWeightsSchema, OutputHead
from softtargets.targets.labels import Labels
from softtargets.targets.layer_weights import Layers, LayersSchema, LayerWeights
from softtargets.targets.number_formats import DType
from softtargets.targets.own_part import OwnPart, register
from softtargets.targets.packed import PackedTargets, pack
from softtargets.targets.part import Column, Part, Range
from softtargets.targets.promises import Promise, broken, check
from softtargets.targets.soft_targets import Samples, SoftTargets, temperature_index
from softtargets.targets.target_schema import TargetSchema, columns_of, part_of, parts_of
from softtargets.targets.threshold_draws import ThresholdDraws

__all__ = [
    "DEFAULT_CONVENTION",
    "DEFAULT_STEP",
    "LAST_HIDDEN",
    "NEXT_TOKEN",
    "TOKEN",
    "UNKNOWN_LABEL",
    "WINDOW",
    "Array",
    "Bool",
    "Cells",
    "ClassProblem",
    "Classes",
    "Column",
    "Columns",
    "Convention",
    "DType",
    "Draws",
    "DrawsSchema",
    "Entries",
    "EntriesSchema",
    "EntryLists",
    "EntryPlanes",
    "FeatureSchema",
    "Features",
    "Float16",
    "Float32",
    "Float64",
    "Grid",
    "HeadWeights",
    "HeadWeightsSchema",
    "Int8",
    "Int32",
    "Int64",
    "Labels",
    "LayerWeights",
    "Layers",
    "LayersSchema",
    "Offsets",
    "Origin",
    "OutputHead",
    "OwnPart",
    "PackedTargets",
    "Part",
    "Predicts",
    "Promise",
    "Range",
    "Samples",
    "SoftTargets",
    "TargetSchema",
    "ThresholdDraws",
    "UInt8",
    "UInt16",
    "broken",
    "check",
    "columns_of",
    "input_labels",
    "kept_entries",
    "pack",
    "part_of",
    "parts_of",
    "register",
    "temperature_index",
    "temperature_text",
]
