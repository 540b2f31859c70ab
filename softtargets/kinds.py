"""The schemas of targets under the names they had first; their home is `softtargets.targets`."""

from softtargets.targets.drawn_ids import DrawsSchema as SampleSchema
from softtargets.targets.exact_entries import DEFAULT_STEP
from softtargets.targets.exact_entries import EntriesSchema as HeadSchema
from softtargets.targets.features import LAST_HIDDEN, FeatureSchema
from softtargets.targets.grid import temperature_text
from softtargets.targets.head_weights import HeadWeightsSchema
from softtargets.targets.target_schema import TargetSchema

__all__ = [
    "DEFAULT_STEP",
    "LAST_HIDDEN",
    "FeatureSchema",
    "HeadSchema",
    "HeadWeightsSchema",
    "SampleSchema",
    "TargetSchema",
    "temperature_text",
]
