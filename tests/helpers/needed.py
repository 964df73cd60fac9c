"""What roots need, told by another way than the marking of reclaim: by reading manifests as a restore does.

A restore asks the merged manifest for each chunk's slot, and the pack's own table for the base of its block. Both are
what every other test of restores rests on; nothing of `engine/marking.py` is used.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np

from blockvault.engine.reclaim import MAX_DEAD_DEFAULT, Reclaimer
from blockvault.ids import PackName
from blockvault.model import Codec, FillKind, Point, ReclaimResult
from blockvault.monitor import Monitor
from blockvault.store.manifest import Manifest
from helpers import forge
from helpers.files import noise, punch, text, write_at
from helpers.site import CHUNK, Site

Slots = dict[PackName, set[int]]
NOW = datetime(2026, 11, 28, tzinfo=UTC)


def needed_by(site: Site, points: Iterable[Point]) -> Slots:
    """Slots by pack that restores of these points read, bases too."""
    session = forge.session(site)
    found: Slots = defaultdict(set)
    for point in points:
        for disk in point.disks:
            manifest = Manifest(session.store, session.keys, disk)
            try:
                for number in manifest.cells_with_segments():
                    cell = manifest.cell(number)
                    for row in np.flatnonzero(cell.kind == FillKind.DATA).tolist():
                        found[cell.packs[cell.pack[row]]].add(int(cell.slot[row]))
            finally:
                manifest.close()
    waiting = [(pack, slot) for pack, slots in found.items() for slot in slots]
    while waiting:
        pack, slot = waiting.pop()
        table = session.shelf.reader(pack).table
        if table.codecs[slot] == Codec.DELTA:
            base = (table.base_packs[table.base_pack[slot]], int(table.base_slot[slot]))
            if base[1] not in found[base[0]]:
                found[base[0]].add(base[1])
                waiting.append(base)
    return dict(found)


def filled(site: Site) -> Slots:
    """Slots by pack that hold a block, in the newest generation of each pack."""
    return {
        pack: set(np.flatnonzero(forge.table(site, pack).codecs != Codec.EMPTY).tolist()) for pack in forge.packs(site)
    }


def listed_layers(points: Iterable[Point]) -> set[str]:
    """Names of the layers that points list."""
    return {ref.name.hex() for point in points for disk in point.disks for ref in disk.layers}


def roots(site: Site) -> list[Point]:
    session = forge.session(site)
    session.catalog.refresh()
    points: list[Point] = session.catalog.points()
    return points


def reclaim(site: Site, max_dead: float = MAX_DEAD_DEFAULT) -> ReclaimResult:
    return Reclaimer(forge.session(site), Monitor()).run(NOW, max_dead=max_dead)


def purge(site: Site, *labels: str | int) -> None:
    """End points; they are no more among those that must restore."""
    for label in labels:
        site.vault.delete_point(str(label), purge=True)
        site.copies.pop(str(label), None)


def nothing_is_left(site: Site) -> None:
    """Nothing is condemned, nothing lies there that no root needs, and nothing that one needs is missing."""
    points = roots(site)
    assert filled(site) == needed_by(site, points)
    assert {path.name for path in site.objects("main/layers")} == listed_layers(points)
    assert site.objects("main/condemned") == []
    assert all(len(names) == 1 for _, names in forge.session(site).shelf.all_packs()), "one generation each"


class Churn:
    """A seeded history of changes to an item's images: every kind of chunk, in every place."""

    def __init__(self, site: Site, rng: object, disks: int = 1, name: str = "disk", chunks: int = 48) -> None:
        import random

        assert isinstance(rng, random.Random)
        self.site = site
        self.rng = rng
        self.paths = [site.root / f"{name}-{number}.img" for number in range(disks)]
        self.name = name
        for number, path in enumerate(self.paths):
            path.write_bytes(text(chunks * CHUNK, rng.randrange(10**6) + number))

    def change(self) -> None:
        """A few changes of random kinds."""
        for _ in range(self.rng.randint(1, 4)):
            path = self.rng.choice(self.paths)
            size = path.stat().st_size
            chunks = max(1, size // CHUNK)
            at = self.rng.randrange(chunks) * CHUNK
            kind = self.rng.choice(["noise", "edit", "edit", "edit", "zeros", "hole", "copy", "grow", "shrink", "run"])
            if kind == "noise":
                write_at(path, at, noise(CHUNK, self.rng.randrange(10**9)))
            elif kind == "edit":
                write_at(path, min(at + self.rng.randrange(CHUNK - 16), max(0, size - 16)), os.urandom(9))
            elif kind == "zeros":
                write_at(path, at, bytes(CHUNK * self.rng.randint(1, 3)))
            elif kind == "hole":
                punch(path, at, CHUNK * self.rng.randint(1, 3))
            elif kind == "run":
                write_at(path, at, text(CHUNK * self.rng.randint(2, 9), self.rng.randrange(10**9)))
            elif kind == "copy":
                other = self.rng.choice(self.paths).read_bytes()
                start = self.rng.randrange(max(1, len(other) // CHUNK)) * CHUNK
                write_at(path, at, other[start : start + 2 * CHUNK])
            elif kind == "grow":
                with path.open("r+b") as file:
                    file.truncate(min(size + self.rng.randrange(1, 5 * CHUNK), 120 * CHUNK))
            elif size > 8 * CHUNK:
                with path.open("r+b") as file:
                    file.truncate(size - self.rng.randrange(1, 5 * CHUNK))

    def take(self, **options: bool) -> int:
        return self.site.take(*self.paths, name=self.name, **options).number
