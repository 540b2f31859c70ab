"""JSON of other people: as deep as FORMAT.md allows, and no deeper."""

from __future__ import annotations

import pytest

from softtargets.errors import FormatError
from softtargets.store.json_object import MOST_LEVELS, parse_object


@pytest.mark.parametrize("inner", ["[]", "{}"])
def test_the_deepest_level_that_is_read(inner: str) -> None:
    assert MOST_LEVELS == 200

    def nested(levels: int) -> str:
        """Return objects within each other with `inner` in the last, so many levels."""
        return '{"a": 1, "b": ' * (levels - 1) + inner + "}" * (levels - 1)

    assert parse_object(nested(MOST_LEVELS), "a.json")
    with pytest.raises(FormatError, match=f"more than {MOST_LEVELS} levels"):
        parse_object(nested(MOST_LEVELS + 1), "a.json")
