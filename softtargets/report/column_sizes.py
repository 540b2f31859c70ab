"""What a store's bytes are spent on, column by column."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from softtargets.report.distribution import evenly_spread
from softtargets.store import Store

MOST_FOOTERS = 64
"""Of so many shards the footers are read: the shards of a store are alike."""
FOOTERS = "footers"
"""What the bytes that belong to no column are called."""

_MEANINGS = (
    ("id_plane_0", "ids of the kept logits, low byte"),
    ("id_plane_", "ids of the kept logits, higher byte"),
    ("num_entries", "how many logits are kept"),
    ("top_logit", "the highest logit, exact"),
    ("steps", "distances between the kept logits"),
    ("escapes", "distances too large for a step"),
    ("logits", "the kept logits, lossless"),
    ("num_repeated", "how many ids were drawn repeatedly"),
    ("repeated_counts", "how often these were drawn"),
    ("sample_gaps", "ids that were drawn"),
    ("sample_", "logits of the drawn ids"),
    ("tail_mass_t", "probability outside the kept logits"),
    ("logsumexp_t", "log-normaliser of the whole vocabulary"),
    ("label_logit", "logit of the label"),
    ("label_rank", "rank of the label"),
    ("label_ids", "the label"),
    ("class_logits", "logits of the classes"),
    ("feature_", "hidden states"),
    ("input_ids", "tokens"),
    ("encoder_input_ids", "tokens of the encoder"),
    ("mask", "which targets are trained on"),
    ("target_positions", "where the targets are"),
    ("segment_lengths", "where documents end"),
    ("document_ids", "names of the documents"),
    ("metadata_", "what is known of the documents"),
    ("window_id", "hashes of the windows' content"),
    ("source", "names of the input files"),
    ("offset", "where windows begin in their documents"),
    (FOOTERS, "where in the file everything is"),
)
"""What columns hold, by what their names begin with; the first that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSizes:
    """The bytes of the columns of some shards of a store, compressed as they lie there."""

    num_shards: int
    """Whose footers were read, evenly spread over the store."""
    all_shards: int
    num_positions: int
    """Of these shards."""
    columns: dict[str, int]
    """Bytes by the column's name, the largest first; `FOOTERS` for the rest."""

    @property
    def num_bytes(self) -> int:
        """Return the size of these shards."""
        return sum(self.columns.values())

    @property
    def shards_text(self) -> str:
        """Return which shards were looked at, for people."""
        if self.num_shards == self.all_shards:
            return "all shards"
        return f"{self.num_shards:,} of {self.all_shards:,} shards"


def column_sizes(store: Store, most_shards: int = MOST_FOOTERS) -> ColumnSizes:
    """Return the bytes of a store's columns, from the footers of at most so many shards.

    Raises:
        CorruptionError, FormatError or IdentityError: a shard is not what was committed.
    """
    shards = store.manifest.shards
    columns: Counter[str] = Counter()
    chosen = evenly_spread(len(shards), most_shards).tolist()
    for number in chosen:
        with store.open_shard(number) as shard:
            own = shard.column_bytes()
        columns.update(own)
        columns[FOOTERS] += shards[number].num_bytes - sum(own.values())
    return ColumnSizes(
        num_shards=len(chosen),
        all_shards=len(shards),
        num_positions=sum(shards[number].num_positions for number in chosen),
        columns=dict(columns.most_common()),
    )


def meaning(column: str) -> str:
    """Return what a column holds, in a few words; empty for one that is not of the format."""
    return next((text for start, text in _MEANINGS if column.startswith(start)), "")
