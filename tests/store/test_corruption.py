from __future__ import annotations

import pytest

from softtargets.store import Store, verify
from tests.benchmarks.corruption import golden_stores, run
from tests.corruptions import DAMAGES, FORGERIES


@pytest.mark.slow
def test_damage_is_detected_or_changes_nothing() -> None:
    """A thousand of the ten thousand that `python -m tests.benchmarks.corruption` tries."""
    outcomes, bad = run(1000, DAMAGES, golden_stores())
    assert bad == []
    assert set(outcomes) == {damage.__name__ for damage in DAMAGES}
    for kind in ("flip_bytes", "cut_tail", "append", "swap_shards", "remove_or_link"):
        assert set(outcomes[kind]) == {"detected"}, kind
    assert outcomes["edit_manifest_field"]["detected"] > 100


@pytest.mark.slow
def test_a_forged_shard_is_reported_or_read_as_another_store() -> None:
    """With right checksums the parser is alone with the damage: no crash, no error of pyarrow."""
    outcomes, bad = run(600, FORGERIES, golden_stores())
    assert bad == []
    for kind in FORGERIES:
        assert outcomes[kind.__name__]["detected"] > 100, kind


def test_the_fast_check_sees_sizes_and_footers_and_reads_nothing_else(store: Store) -> None:
    report = verify(store.root, fast=True)
    assert report.is_sound
    assert report.num_positions == store.num_positions
    entry = store.manifest.shards[0]
    path = store.root / entry.path
    content = path.read_bytes()

    def problems_with(at: int) -> int:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        return len(verify(store.root, fast=True).problems)

    assert problems_with(at=100) == 0
    assert problems_with(at=len(content) - entry.footer_bytes) == 1
    path.write_bytes(content[:-1])
    assert len(verify(store.root, fast=True).problems) == 1


def test_a_shard_taken_out_of_the_manifest_is_missed(store: Store) -> None:
    from tests.store.test_store import edit_manifest

    path = store.root / store.manifest.shards[-1].path
    edit_manifest(store, lambda m: m["shards"].pop())
    path.unlink()
    for fast in (True, False):
        wheres = [problem.where for problem in verify(store.root, fast=fast).problems]
        assert [where.rsplit(" ", 1)[1] for where in wheres] == ["corpus.windows", "corpus.tokens"]
