"""Repair a vault: records, blocks, the LMDB store, and then quarantine.

What is damaged and has a copy somewhere is made whole; what has none is told exactly, with the points that it touches.

Records: LMDB keeps the sealed bytes of points, marks and items as they were committed. An object that lies in the
vault damaged is replaced by that copy, whole, in one step, if the copy unseals under the object's own name: tag and
salt say that it is what was once written there. Not put back are

* records that are gone: from the vault's side a lost record and a deleted one look alike (an older copy of the vault,
  a purge whose marks went too), and a point that comes back unasked is worse than one that is told missing;
* points with a void or purge mark, or with a mark that cannot be read: they have ended, or may have;
* records of a newer format, and any that unseal: what is whole is never replaced.

An index segment is written anew from the tables of packs that points name; this host's origin record from what the
host remembers; a quarantine record from its name.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from blockvault.clock import to_text
from blockvault.engine.check import named_by
from blockvault.engine.heal import Bad, Healer
from blockvault.engine.items import Items
from blockvault.engine.listing import Listing
from blockvault.engine.session import Session
from blockvault.engine.spare import SpareCopies
from blockvault.engine.suspects import Suspects
from blockvault.engine.verified import verified_state
from blockvault.engine.verify import Verifier
from blockvault.engine.verifying import make_verifier
from blockvault.errors import BlockVaultError, CorruptionError
from blockvault.format import records
from blockvault.format.envelope import Kind, seal_record, unseal_record
from blockvault.format.index import decode_index, encode_index, prefixes_of
from blockvault.ids import OriginId, PackName
from blockvault.model import BlockDamage, Codec, Point, PointRef, RepairReport
from blockvault.monitor import Monitor
from blockvault.store.catalog import COPIED_KINDS, folder_of, record_names
from blockvault.store.quarantine import Quarantined, told_name

SEGMENT_ENTRIES = 500_000


class Repair:
    """One repair of an opened vault; `run` it once."""

    def __init__(self, session: Session, items: Items, listing: Listing, monitor: Monitor, *, dry_run: bool) -> None:
        self._session = session
        self._items = items
        self._listing = listing
        self._monitor = monitor
        self._dry_run = dry_run
        self._records: list[str] = []
        self._released = 0

    def run(
        self, *, rebuild_index: bool, quarantined_only: bool, moment: datetime, elapsed: Callable[[], float]
    ) -> RepairReport:
        """See `Vault.repair`."""
        session, monitor = self._session, self._monitor
        with ExitStack() as held:
            if not self._dry_run:
                session.check_writable()
                held.enter_context(session.reclaim_lock(moment))
                held.enter_context(session.lease("repair", "", []))
            self._mend_records(moment)
            if rebuild_index and not self._dry_run:
                session.rebuild_index()
            points = [(info.label, info.point) for info in self._listing.points() if info.point is not None]
            self._mend_segments(session.catalog.points())
            session.quarantine.refresh()
            verifier = make_verifier(session, monitor, moment)
            suspects = Suspects(session.shelf, session.quarantine, monitor) if quarantined_only else None
            state = None if quarantined_only or self._dry_run else verified_state(session)
            found = verifier.run(points, quick=False, everything=True, state=state, suspects=suspects)
            healer = Healer(session, verifier.needed, monitor)
            bad: Bad = {pack: dict(slots) for pack, slots in verifier.bad.items()}
            live = {f"{item.id}/{disk.name}": disk.path for item in self._items.all() for disk in item.disks}
            with SpareCopies(session.tier, session.keys, session.host.digests_folder, live=live) as spare:
                healer.heal(bad, [point for _, point in points], spare, dry_run=self._dry_run)
            healer.tidy(dry_run=self._dry_run)
            left = self._left(found.damage, healer)
            if left and healer.healed and not self._dry_run:
                # What is left may touch less than it did: all of it is in quarantine, so little is read again.
                again = Suspects(session.shelf, session.quarantine, monitor)
                left = (
                    make_verifier(session, monitor, moment)
                    .run(points, quick=False, everything=True, suspects=again)
                    .damage
                )
            self._release(session.catalog.points(), verifier, left)
        return RepairReport(
            dry_run=self._dry_run,
            healed=tuple(healer.healed),
            records=tuple(self._records),
            released=self._released,
            index_rebuilt=rebuild_index and not self._dry_run,
            left=tuple(left),
            seconds=elapsed(),
            warnings=tuple(warning.message for warning in monitor.warnings),
        )

    def _left(self, damage: list[BlockDamage], healer: Healer) -> list[BlockDamage]:
        resolved = {(bytes(pack), slot) for pack, slot in healer.resolved}
        return [
            one
            for one in damage
            if not (one.slot is not None and (told_name(one.object), one.slot) in resolved)
            and not (self._dry_run and one.object in self._records)
        ]

    # --- records ---

    def _mend_records(self, moment: datetime) -> None:
        catalog = self._session.catalog
        for kind in COPIED_KINDS:
            copies = self._session.index.records(folder_of(kind)) if self._session.index is not None else {}
            for name in record_names(self._session.store, kind):
                if not self._is_damaged(kind, name) or name not in copies:
                    continue
                if kind is Kind.POINT and self._may_have_ended(name):
                    continue
                try:
                    unseal_record(self._session.keys, kind, name, copies[name])
                except BlockVaultError:
                    continue
                self._put_back(name, copies[name])
            catalog.refresh()
        own, data = self._session.origin_record(moment)
        if self._session.store.exists(own) and self._is_damaged(Kind.ORIGIN, own):
            self._put_back(own, data)
        for entry in self._session.quarantine.entries():
            if self._session.store.exists(entry.name) and self._is_damaged(Kind.QUARANTINE, entry.name):
                self._put_back(entry.name, self._quarantine_record(entry, moment))

    def _quarantine_record(self, entry: Quarantined, moment: datetime) -> bytes:
        body = records.QuarantineBody(
            object=entry.object.hex(),
            slot="all" if entry.slot is None else str(entry.slot),
            reason="found damaged earlier; what was said of it was lost",
            at=to_text(moment),
        )
        data, _ = seal_record(self._session.keys, Kind.QUARANTINE, entry.name, records.encode(body))
        return data

    def _is_damaged(self, kind: Kind, name: str) -> bool:
        try:
            unseal_record(self._session.keys, kind, name, self._session.store.read(name))
        except CorruptionError:
            return True
        except BlockVaultError:
            return False  # gone meanwhile, or of a newer format: not ours to replace
        return False

    def _may_have_ended(self, name: str) -> bool:
        _, origin, number = name.split("/")
        state = self._session.catalog.state(PointRef(OriginId(origin), int(number)))
        return not state.is_root or state.uncertain

    def _put_back(self, name: str, data: bytes) -> None:
        if not self._dry_run:
            self._session.store.mend(name, data)
        self._records.append(name)
        self._monitor.count("records_mended")

    # --- index segments ---

    def _mend_segments(self, points: list[Point]) -> None:
        """Damaged segments tell again of full blocks that no other segment tells of, in packs that points name.

        Each is replaced under its own name, if only by an empty one: a name that was seen never means anything new.
        """
        session = self._session
        damaged, told = [], set()
        for name in record_names(session.store, Kind.INDEX):
            try:
                body, _ = unseal_record(session.keys, Kind.INDEX, name, session.store.read(name))
                told |= set(decode_index(name, body)[0])
            except CorruptionError:
                damaged.append(name)
            except BlockVaultError:
                continue
        if not damaged:
            return
        named = named_by(session, points, self._monitor).packs
        waiting = sorted(pack for pack in named if pack not in told)
        for number, name in enumerate(damaged):
            parts: list[tuple[PackName, NDArray[np.uint64], NDArray[np.int64]]] = []
            count = 0
            while waiting and (count < SEGMENT_ENTRIES or number == len(damaged) - 1):
                pack = waiting.pop(0)
                try:
                    table = session.shelf.newest_reader(pack).table
                except CorruptionError:
                    continue
                slots = np.flatnonzero(np.isin(table.codecs, (int(Codec.RAW), int(Codec.ZSTD))))
                if len(slots) and count + len(slots) <= 2 * SEGMENT_ENTRIES:
                    parts.append((pack, prefixes_of(table.ids[slots]), slots))
                    count += len(slots)
            none = [np.zeros(0, np.uint64)]
            prefixes = np.concatenate(none + [part[1] for part in parts]).astype(np.uint64)
            slot = np.concatenate(none + [part[2] for part in parts]).astype(np.uint32)
            pack_of = np.repeat(np.arange(len(parts), dtype=np.uint32), [len(part[2]) for part in parts])
            packs = [part[0] for part in parts]
            data, _ = seal_record(session.keys, Kind.INDEX, name, encode_index(packs, prefixes, pack_of, slot))
            self._put_back(name, data)
            if not self._dry_run and session.index is not None:
                session.index.add_blocks(packs, prefixes, pack_of, slot, name.removeprefix("main/index/"))

    # --- quarantine ---

    def _release(self, points: list[Point], verifier: Verifier, left: list[BlockDamage]) -> None:
        """Take back the entries of what is whole again, and of what is gone and named by no point."""
        session = self._session
        session.quarantine.refresh()
        entries = session.quarantine.entries()
        if not entries:
            return
        named = named_by(session, points, self._monitor)
        layers = {bytes(name) for name in named.layers}
        broken = {told_name(one.object) for one in left if one.slot is None}
        for entry in entries:
            self._monitor.check()
            if self._is_whole(entry, named.packs, layers, broken, verifier, complete=named.complete):
                if not self._dry_run:
                    session.quarantine.release(entry)
                self._released += 1

    def _is_whole(
        self,
        entry: Quarantined,
        packs: set[PackName],
        layers: set[bytes],
        broken: set[bytes | None],
        verifier: Verifier,
        *,
        complete: bool,
    ) -> bool:
        session, pack = self._session, PackName(entry.object)
        if entry.object in broken:
            return False
        if session.store.exists(f"main/layers/{entry.object.hex()}"):
            return True  # nothing of it was found damaged, or no point lists it
        try:
            table = session.shelf.newest_reader(pack).table
        except CorruptionError:
            gone = not session.shelf.names(pack, refresh=True)
            return gone and complete and pack not in packs and entry.object not in layers
        if entry.slot is not None:
            slots = [entry.slot] if entry.slot < table.slot_count else []
        else:
            slots = np.flatnonzero(table.codecs != Codec.EMPTY).tolist()
        return bool(slots) and not Healer(session, verifier.needed, self._monitor).damaged(pack, slots)
