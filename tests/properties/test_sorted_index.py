"""The dedup index with a tiny share of LMDB against a dict: whatever moves and merges, the newest place is found."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvault.clock import utc_now
from blockvault.ids import PackName
from blockvault.store import index as index_module
from blockvault.store.index import Index

Place = tuple[PackName, int]
PREFIXES = [0, 1, 0xFFFF, 0x1_0000, 0x1_FFFF, (1 << 64) - 1, *range(1 << 60, (1 << 60) + 60)]
PACKS = [PackName(bytes([number]) * 16) for number in range(4)]

adding = st.tuples(st.just("add"), st.sampled_from(PACKS), st.lists(st.sampled_from(PREFIXES), max_size=30))
many = st.tuples(st.just("take in"), st.sampled_from(PACKS), st.lists(st.sampled_from(PREFIXES), max_size=60))
forgetting = st.tuples(st.just("forget"), st.sampled_from(PACKS), st.just([]))
dropping = st.tuples(st.just("drop"), st.sampled_from(PACKS), st.lists(st.sampled_from(PREFIXES), max_size=20))
reopening = st.tuples(st.just("reopen"), st.just(PACKS[0]), st.just([]))


def ids_of(prefixes: list[int]) -> np.ndarray:
    ids = np.zeros((len(prefixes), 32), dtype=np.uint8)
    ids[:, :8] = np.array(prefixes, ">u8").view(np.uint8).reshape(-1, 8)
    return ids


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(adding, adding, many, forgetting, dropping, reopening), max_size=20))
def test_the_index_tells_the_newest_place_that_was_not_forgotten(steps: list[tuple[str, PackName, list[int]]]) -> None:
    told: dict[int, list[tuple[Place, str]]] = {
        prefix: [] for prefix in PREFIXES
    }  # the oldest first, and what became of it

    def become(state: str, pack: PackName, prefixes: list[int]) -> None:
        for prefix in prefixes:
            told[prefix] = [
                (place, state if place[0] == pack and old != "gone" else old) for place, old in told[prefix]
            ]

    true = index_module.LMDB_ENTRIES
    index_module.LMDB_ENTRIES = 16
    try:
        with tempfile.TemporaryDirectory() as folder:

            def opened() -> Index:
                return Index(os.path.join(folder, "lmdb"), "1:2", now=utc_now(), note=os.path.join(folder, "note"))

            index = opened()
            for number, (verb, pack, prefixes) in enumerate(steps):
                slots = np.arange(len(prefixes), dtype=np.uint32) + np.uint32(1000 * number)
                keys, zeros = np.array(prefixes, np.uint64), np.zeros(len(prefixes), np.uint32)
                if verb in ("add", "take in"):
                    if verb == "add":
                        index.add_blocks([pack], keys, zeros, slots, f"o/{number}")
                    else:
                        index.take_in([([pack], keys, zeros, slots, f"o/{number}")])
                    for prefix, slot in zip(prefixes, slots.tolist(), strict=True):
                        told[prefix].append(((pack, slot), "there"))
                elif verb == "forget":
                    index.forget_pack(pack)
                    become("gone", pack, PREFIXES)
                elif verb == "drop":
                    index.drop_blocks(pack, keys)
                    become("dropped", pack, prefixes)
                else:
                    index.close()
                    index = opened()
                for prefix, found in zip(PREFIXES, index.find_blocks(ids_of(PREFIXES)), strict=True):
                    if told[prefix] and told[prefix][-1][1] == "there":
                        assert found == told[prefix][-1][0]
                    else:  # where the newest is gone an older one may be told, never one of a pack that was forgotten
                        assert found is None or any(found == place for place, state in told[prefix] if state != "gone")
            listed = {path.name for path in Path(folder, "lmdb").glob("sorted-*")}
            assert listed == {os.path.basename(segment.path) for segment in index._sorted}
            assert len(listed) <= 8
            index.close()
    finally:
        index_module.LMDB_ENTRIES = true
