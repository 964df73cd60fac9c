"""Rules of a Hypothesis machine that take, transfer, restore and compare points, and hold them against a ledger.

Time is the machine's own: each job is a few minutes after the one before, and `days_pass` moves it on.
"""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from blockvault.clock import utc_now
from blockvault.engine import packing
from blockvault.errors import AlreadyExistsError
from blockvault.model import ChurnSource, PointInfo, Tier
from blockvault.monitor import Monitor
from blockvault.units import KIB
from helpers.children import ForkServer
from helpers.churn_rules import ChurnRules, items
from helpers.files import differing_chunks, first_difference, keep_copy
from helpers.ledger import Known, Ledger
from helpers.site import KEY_FILE, Site

PACK_BYTES = packing.PACK_BYTES
places = st.integers(0, 5039)  # one of some points: `pick` takes the remainder


class JobRules(ChurnRules):
    """A host with one vault, and the ledger of what it must hold."""

    children: ForkServer  # set by the test, shared by all runs

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="blockvault-stateful-"))
        self.copies = 0
        self.now = utc_now()

    @initialize(
        kib=st.sampled_from([16, 64]),
        encrypted=st.booleans(),
        days=st.sampled_from([0, 1, 14]),
        pack=st.sampled_from([128 * KIB, PACK_BYTES]),
    )
    def begin(self, kib: int, encrypted: bool, days: int, pack: int) -> None:
        self.chunk = kib * KIB
        self.pack_bytes = packing.PACK_BYTES = pack
        self.ledger = Ledger(days)
        self.site = Site(
            self.root / "site", chunk_size=self.chunk, secret=KEY_FILE if encrypted else None, soft_delete_days=days
        )
        self.folder = self.site.root
        self.make_images()

    def tick(self) -> datetime:
        """The moment of the next job; never the very moment at which a day of something is over."""
        self.now = max(self.now, utc_now()) + timedelta(minutes=7, seconds=13)
        return self.now

    # --- the ledger ---

    def pick(self, points: list[Known], place: int) -> Known | None:
        """One of them, if any. Which there are depends on when a child was killed; what is drawn must not."""
        return points[place % len(points)] if points else None

    def infos(self) -> dict[str, PointInfo]:
        """What the vault lists, deleted points too."""
        return {info.id: info for info in self.site.vault.points(deleted=True)}

    def remember(self, info: PointInfo) -> Known:
        copies = {}
        for path in self.images(info.item):
            self.copies += 1
            copies[path.stem] = keep_copy(path, self.root / f"copy-{self.copies}")
        return self.ledger.add(info, self.site.vault.origin, copies)

    def check(self, known: Known, source: str, *, force: bool = False) -> None:
        """A point restores byte for byte."""
        for disk, copy in known.copies.items():
            target = self.root / "restored.img"
            if force:
                target.write_bytes(b"what was here before")
                with pytest.raises(AlreadyExistsError):
                    self.site.vault.restore(known.id, disk=disk, output=str(target), source=source)
                assert target.read_bytes() == b"what was here before"
            result = self.site.vault.restore(known.id, disk=disk, output=str(target), source=source, force=force)
            at = first_difference(target, copy)
            target.unlink()
            assert at is None, f"point {result.label}, disk {disk}, from {result.source}: wrong from byte {at} on"
            assert result.healed_chunks == 0

    # --- rules ---

    @rule(days=st.sampled_from([1, 1, 2, 5, 15, 40, 366]))
    def days_pass(self, days: int) -> None:
        self.now += timedelta(days=days)

    @rule(place=places)
    def put_back(self, place: int) -> None:
        """An image is as it was at some point again, one that is gone perhaps: what lies dead is met once more."""
        known = self.pick(list(self.ledger.points.values()), place)
        for name, copy in known.copies.items() if known else ():
            keep_copy(copy, self.folder / f"{name}.img")

    def take(self, item: str, monitor: Monitor | None = None, **options: object) -> Known:
        targets = [str(path) for path in self.images(item)]
        now = self.tick()
        result = self.site.vault.snapshot(targets, name=item, monitor=monitor, now=now, **options)  # type: ignore[arg-type]
        assert result.warnings == ()
        known = self.remember(self.site.vault.point(str(result.number)))
        assert self.settle_snapshots(now), "snapshots whose days are over are still there"
        return known

    def settle_snapshots(self, now: datetime) -> bool:
        """Take into the ledger which snapshots a job removed; whether all went whose days are over.

        None need go on the word of a clock that stands more than 14 days after every earlier point.
        """
        origin, infos = self.site.vault.origin, self.infos()
        over = self.ledger.expirable_snapshots(origin, now)
        left = [known for known in over if known.id in infos and infos[known.id].tier is not Tier.VAULT]
        self.ledger.expire_snapshots([known for known in over if known not in left])
        earlier = [
            known.taken
            for known in self.ledger.points.values()
            if known.origin == origin and known.taken < now and (known.is_root or known.snapshot_until is not None)
        ]
        return not left or now - max(earlier) > timedelta(days=14)

    @rule(item=items, keep=st.booleans(), full=st.booleans(), days=st.sampled_from([None, None, None, 1, 20]))
    def snapshot(self, item: str, keep: bool, full: bool, days: int | None) -> None:
        until = None if days is None else self.now + timedelta(days=days)
        self.take(item, keep=keep, full=full, retain_until=until)

    @rule(item=items)
    def snapshot_only(self, item: str) -> None:
        self.take(item, snapshot_only=True)

    @rule()
    def transfer(self) -> None:
        results = self.site.vault.transfer()
        assert all(result.tier is Tier.BOTH and result.warnings == () for result in results)
        waited = self.ledger.waiting()
        assert {result.id for result in results} == {known.id for known in waited}
        for known in waited:
            known.in_vault = True

    @rule(item=items)
    def nothing_changed(self, item: str) -> None:
        """Two points without churn between them: the second stores no block and no layer."""
        self.take(item, keep=False)
        monitor = Monitor()
        taken = self.take(item, monitor, keep=False)
        newest = self.infos()[taken.id]
        assert newest.churn_source is ChurnSource.SCAN
        assert newest.statistics.changed_chunks == 0
        assert monitor.counters["blocks_stored"] == 0

    @rule(place=places, source=st.sampled_from(["auto", "snapshot", "vault"]), force=st.booleans())
    def restore(self, place: int, source: str, force: bool) -> None:
        known = self.pick(self.ledger.listed(), place)
        if (
            known is None
            or (source == "vault" and not known.in_vault)
            or (source == "snapshot" and known.snapshot_until is None)
        ):
            return
        self.check(known, source, force=force)

    @rule(place=places, other=places)
    def compare(self, place: int, other: int) -> None:
        """`diff` of any two points of an item, and of a point and its images, tells the chunks that differ."""
        inside = [known for known in self.ledger.listed() if known.in_vault]
        left = self.pick(inside, place)
        right = self.pick([known for known in inside if left is not None and known.item == left.item], other)
        if left is None or right is None:
            return
        result = self.site.vault.diff(left.id, right.id)
        for disk in left.copies:
            wanted = differing_chunks(left.copies[disk], right.copies[disk], self.chunk)
            assert self.told(result.extents, disk) == wanted
            image = self.folder / f"{disk}.img"
            changed = self.site.vault.diff(left.id, str(image), disk=disk)
            assert self.told(changed.extents, disk) == differing_chunks(left.copies[disk], image, self.chunk)

    def told(self, extents: object, disk: str) -> set[int]:
        return {
            chunk
            for extent in extents  # type: ignore[attr-defined]
            if extent.disk == disk
            for chunk in range(extent.offset // self.chunk, -(-(extent.offset + extent.byte_count) // self.chunk))
        }

    @rule(quick=st.booleans())
    def verify(self, quick: bool) -> None:
        assert self.site.vault.verify(quick=quick).damage == ()
