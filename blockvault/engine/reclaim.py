"""Reclaim: free what no root needs (R9, R10). Exact, beside all other work, and to be interrupted anywhere.

    list packs and layers -> leases -> points: mark what roots need
    -> condemn what is not needed (`store/condemned.py`), durable
    -> leases again: whoever was at work before must have ended, else the rest is left to a later run
    -> mark again, what was committed meanwhile -> delete

The order of every look matters: objects before leases before points. A pack of a running transfer is seen before
its lease; a transfer whose lease has ended has its point there. So nothing that is condemned in one look is a
commit that was missed, and the second look is after everyone who could not see the markers.

Invariants:
- What is deleted was condemned, unneeded before and after, and nobody who began before it was condemned is at work.
- A pack's older generation is deleted only after every slot that is needed was read back from the newer one.
- A root or layer that cannot be read stops all deletion; a pack that cannot be read is left alone.
- Interrupted anywhere: a later run takes up the markers, or lifts them where something is needed again. The marker of
  a pack stays until the index segments that name only packs that are gone are deleted too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from blockvault.engine.blocks import fetch
from blockvault.engine.marking import Marker, stopped
from blockvault.engine.session import Session
from blockvault.errors import BlockVaultError, ConflictError, CorruptionError, DeviceError
from blockvault.failpoints import reach
from blockvault.format.envelope import Kind, unseal_record
from blockvault.format.index import decode_index, prefixes_of
from blockvault.ids import LayerName, PackName, random_name
from blockvault.model import Codec, Point, PointRef, ReclaimResult
from blockvault.monitor import Monitor
from blockvault.pipeline import batch_chunks
from blockvault.store import condemned
from blockvault.store.catalog import record_names, ref_of
from blockvault.store.generations import write_generation
from blockvault.store.layers import LAYERS_FOLDER, layer_object
from blockvault.store.leases import Live, live_leases
from blockvault.store.outlines import OutlineShelf
from blockvault.store.packs import PACKS_FOLDER, PackReader, generations, pack_folder, read_table

MAX_DEAD_DEFAULT = 0.6  # a pack of which more is dead is rewritten: 40% alive (D5)
SCRATCH_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class PackUse:
    """A pack of which something is dead. `dead` is None for all of it."""

    pack: PackName
    names: tuple[str, ...]  # generations, newest first
    bytes_on_disk: int
    dead: NDArray[np.int64] | None = None
    dead_bytes: int = 0

    @property
    def dead_share(self) -> float:
        """How much of the pack is dead, by stored bytes."""
        return self.dead_bytes / self.bytes_on_disk if self.bytes_on_disk else 1.0


@dataclass(slots=True)
class ReclaimPlan:
    """What is not needed: layers, whole packs, and packs of which enough is dead to be rewritten."""

    layers: dict[LayerName, int] = field(default_factory=dict)  # bytes
    packs: list[PackUse] = field(default_factory=list)
    rewrites: list[PackUse] = field(default_factory=list)
    left_dead_bytes: int = 0  # in packs that are not worth rewriting

    @property
    def freeable_bytes(self) -> int:
        """What carrying it out would free."""
        whole = sum(use.bytes_on_disk for use in self.packs)
        return sum(self.layers.values()) + whole + sum(use.dead_bytes for use in self.rewrites)


class Reclaimer:
    """Frees the dead space of one vault."""

    def __init__(self, session: Session, monitor: Monitor) -> None:
        self._session = session
        self._store = session.store
        self._keys = session.keys
        self._monitor = monitor
        self._result = ReclaimResult()
        self._outlines = OutlineShelf(session.store, session.keys, session.index)
        self._spent: list[str] = []  # markers of packs that are gone

    # --- looking ---------------------------------------------------------------------------------------------

    def plan(self, max_dead: float = MAX_DEAD_DEFAULT, *, without: Iterable[PointRef] = ()) -> ReclaimPlan:
        """What could be freed now, or if the points `without` had ended. Nothing is changed."""
        gone, seen = set(without), None
        while True:
            layers, packs = self._there()
            try:
                marker, leases = self._mark(without=gone, tidy=False)
            except CorruptionError:
                # Another process may have freed what these roots need, after they had ended: look at them anew.
                before, seen = seen, [point.ref for point in self._session.catalog.points()]
                if seen == before:
                    raise
                continue
            return self._plan(marker, leases, layers, packs, max_dead)

    def _there(self) -> tuple[list[LayerName], list[tuple[PackName, list[str]]]]:
        layers = [LayerName(bytes.fromhex(entry)) for entry in self._store.entries(LAYERS_FOLDER) if _is_name(entry)]
        return layers, self._session.shelf.all_packs()

    def _mark(
        self, marker: Marker | None = None, *, without: set[PointRef] | None = None, tidy: bool = True
    ) -> tuple[Marker, list[Live]]:
        """Mark all roots: of the leases first, then of the points. With `marker` only what is new."""
        leases = live_leases(self._store, self._keys, tidy=tidy)
        catalog = self._session.catalog
        catalog.refresh()
        marker = marker or Marker(self._store, self._keys, self._monitor, self._outlines)
        roots = [point for point in catalog.points() if point.ref not in (without or set())]
        for name, damage in sorted(catalog.damage.items()):
            if name.startswith("points/") and catalog.state(ref_of(name)).is_root:
                raise stopped(CorruptionError("", f"the point record {name} is damaged", why=damage.reason))
        marker.add([*roots, *self._parents(leases)])
        return marker, leases

    def _parents(self, leases: list[Live]) -> list[Point]:
        """What running work builds on stays, whatever became of it (R9)."""
        found: list[Point] = []
        for lease in leases:
            if lease.parents is None:
                raise ConflictError(
                    "reclaim.lease-unreadable",
                    "nothing was freed: it is not known what a running job builds on",
                    why=f"the lease {lease.writer} is held and cannot be read",
                    do="wait until that job has ended, then run the command again",
                )
            for ref in lease.parents:
                point = self._session.catalog.record(ref)
                if point is None:
                    raise ConflictError(
                        "reclaim.parent-gone",
                        f"nothing was freed: a running job builds on point {ref.number}, which is gone",
                        why="it will find that out at its end, and may refer to anything until then",
                        do="wait until that job has ended, then run the command again",
                    )
                found.append(point)
        return found

    def _plan(
        self,
        marker: Marker,
        leases: list[Live],
        layers: list[LayerName],
        packs: list[tuple[PackName, list[str]]],
        max_dead: float,
    ) -> ReclaimPlan:
        # What a running job has made so far is needed by nothing yet. Were it condemned, nothing would be lost, but the
        # job would fail at its end; so what is as new as the oldest of them is left out.
        since = min([lease.since for lease in leases if lease.operation != "read"], default=float("inf"))
        plan = ReclaimPlan()
        for layer in layers:
            name = layer_object(layer)
            if layer not in marker.layers and self._modified(name) < since:
                plan.layers[layer] = self._size(name)
        for pack, names in packs:
            self._monitor.check()
            if pack not in marker.needed:
                if all(self._modified(name) < since for name in names):
                    plan.packs.append(PackUse(pack, tuple(names), sum(self._size(name) for name in names)))
                continue
            if self._outlines.block_count(names[0]) == int(marker.needed.of(pack).sum()):
                continue
            use = self._use_of(marker, pack, names)
            if use is None or any(self._modified(name) >= since for name in names):
                continue
            if use.dead_share > max_dead:
                plan.rewrites.append(use)
            else:
                plan.left_dead_bytes += use.dead_bytes
        self._outlines.save()
        return plan

    def _use_of(self, marker: Marker, pack: PackName, names: list[str]) -> PackUse | None:
        reader = self._open(names)
        if reader is None:
            return None  # damaged, and needed: left alone
        table = reader.table
        dead = np.flatnonzero(~marker.needed.of(pack, table.slot_count) & (table.codecs != Codec.EMPTY))
        self._monitor.count("tables_read")
        self._outlines.put_block_count(reader.name, int((table.codecs != Codec.EMPTY).sum()))
        size = self._size(reader.name)
        reader.close()
        if not len(dead):
            return None
        return PackUse(pack, tuple(names), size, dead, int(table.lengths[dead].sum(dtype=np.int64)))

    def _open(self, names: Iterable[str]) -> PackReader | None:
        for name in names:
            try:
                return read_table(self._store, self._keys, name)
            except BlockVaultError:
                continue
        return None

    def _modified(self, name: str) -> float:
        """When an object was made, by the store's time; one that is gone meanwhile counts as new."""
        try:
            return self._store.modified(name)
        except BlockVaultError:
            return float("inf")

    def _size(self, name: str) -> int:
        try:
            return self._store.size(name)
        except BlockVaultError:
            return 0

    # --- working ---------------------------------------------------------------------------------------------

    def run(self, now: datetime, *, max_dead: float = MAX_DEAD_DEFAULT) -> ReclaimResult:
        """Free what no root needs; what somebody at work may still refer to is left to a later run.

        Raises:
            CorruptionError: a root cannot be read (`reclaim.stopped`); nothing was deleted.
            ConflictError: another process reclaims (`vault.locked`), or a lease cannot be read.
        """
        self._session.check_writable()
        with self._session.reclaim_lock(now):
            layers, packs = self._there()
            marker, leases = self._mark()
            reach("reclaim.marked")
            plan = self._plan(marker, leases, layers, packs, max_dead)
            reach("reclaim.planned")
            due = self._condemn(plan, marker, now)
            reach("reclaim.waited")
            if due:
                marker, _ = self._mark(marker)
                for each in due:
                    self._monitor.check()
                    self._carry_out(each, marker)
            self._drop_older_generations(marker)
            self._tidy()
            self._result.left_dead_bytes += plan.left_dead_bytes
        return self._result

    def _condemn(self, plan: ReclaimPlan, marker: Marker, now: datetime) -> list[condemned.Marker]:
        """Make markers of a new round; returns those, of it and of earlier ones, whose time to wait is over."""
        known = [mark for mark in condemned.markers(self._store, self._keys) if self._still_stands(mark, marker)]
        whole = {mark.key for mark in known if mark.slots is None}
        parts = {mark.key for mark in known if mark.slots is not None}
        in_round = random_name().hex()
        fresh: list[condemned.Marker] = []

        def add(key: str, name: str, slots: NDArray[np.int64] | None) -> None:
            self._monitor.check()
            fresh.append(
                condemned.condemn(self._store, self._keys, key=key, name=name, slots=slots, in_round=in_round, now=now)
            )

        try:
            for use in plan.packs:
                if use.pack.hex() not in whole:
                    add(use.pack.hex(), f"{pack_folder(use.pack)}/{use.pack.hex()}", None)
            for layer in plan.layers:
                if layer.hex() not in whole:
                    add(layer.hex(), layer_object(layer), None)
            for use in plan.rewrites:
                if use.pack.hex() not in whole | parts:
                    add(use.pack.hex(), f"{pack_folder(use.pack)}/{use.pack.hex()}", use.dead)
        except DeviceError as error:
            if error.kind != "store.no-space" or not (known or fresh):
                raise
            self._monitor.warn(error.kind, f"{error.message}: what is condemned so far is freed; run prune again")
        alive = live_leases(self._store, self._keys)
        writers = {lease.writer for lease in alive}
        due: list[condemned.Marker] = []
        waits: dict[str, set[str]] = {}
        for mark in [*known, *fresh]:
            if mark.round not in waits:
                asked = condemned.read_round(self._store, self._keys, mark.round)
                if asked is None:
                    asked = writers
                    if writers:
                        condemned.close_round(self._store, self._keys, mark.round, writers, now)
                waits[mark.round] = asked & writers
            if waits[mark.round]:
                self._result.waiting_objects += 1
                self._result.waiting_for.update(lease.operation for lease in alive if lease.writer in waits[mark.round])
            else:
                due.append(mark)
        return due

    def _still_stands(self, mark: condemned.Marker, marker: Marker) -> bool:
        """Whether an earlier marker still holds; one that does not is lifted."""
        exists = mark.readable and self._exists(mark)
        if exists and not self._is_needed(mark, marker):
            return True
        if mark.readable and not exists and mark.object.startswith(PACKS_FOLDER):
            self._spent.append(mark.name)
        else:
            self._store.delete(mark.name)
        return False

    def _exists(self, mark: condemned.Marker) -> bool:
        if mark.object.startswith(LAYERS_FOLDER):
            return self._store.exists(layer_object(LayerName(bytes.fromhex(mark.key))))
        return bool(generations(self._store, PackName(bytes.fromhex(mark.key))))

    def _is_needed(self, mark: condemned.Marker, marker: Marker) -> bool:
        if mark.object.startswith(LAYERS_FOLDER):
            return LayerName(bytes.fromhex(mark.key)) in marker.layers
        pack = PackName(bytes.fromhex(mark.key))
        if mark.slots is None or pack not in marker.needed:
            return pack in marker.needed
        return not len(self._dead_of(mark, marker))

    def _dead_of(self, mark: condemned.Marker, marker: Marker) -> NDArray[np.int64]:
        """The condemned slots of a pack that are not needed."""
        assert mark.slots is not None
        if not len(mark.slots):
            return mark.slots
        needed = marker.needed.of(PackName(bytes.fromhex(mark.key)), int(mark.slots.max()) + 1)
        return mark.slots[~needed[mark.slots]]

    def _carry_out(self, mark: condemned.Marker, marker: Marker) -> None:
        if self._is_needed(mark, marker):
            pass  # it was taken up by somebody who began before it was condemned
        elif mark.object.startswith(LAYERS_FOLDER):
            self._result.freed_bytes += self._size(mark.object)
            reach("reclaim.delete-layer")
            self._store.delete(layer_object(LayerName(bytes.fromhex(mark.key))))
            self._result.deleted_layers += 1
        elif mark.slots is None:
            self._delete_pack(PackName(bytes.fromhex(mark.key)))
            self._spent.append(mark.name)
            return
        else:
            self._rewrite(PackName(bytes.fromhex(mark.key)), self._dead_of(mark, marker), marker)
        reach("reclaim.unmark")
        self._store.delete(mark.name)

    def _delete_pack(self, pack: PackName) -> None:
        names = generations(self._store, pack)
        reader = self._open(names)
        if reader is not None:
            self._forget(pack, reader, np.arange(reader.table.slot_count))
            reader.close()
        if self._session.index is not None:
            self._session.index.forget_pack(pack)
        for name in reversed(names):  # the newest last: until then the pack is whole
            self._result.freed_bytes += self._size(name)
            reach("reclaim.delete-pack")
            self._store.delete(name)
        self._result.deleted_packs += 1

    def _forget(self, pack: PackName, reader: PackReader, slots: NDArray[np.int64]) -> None:
        """Take slots out of the dedup index; those that another index still names are harmless (R2)."""
        if self._session.index is not None and len(slots):
            self._session.index.drop_blocks(pack, prefixes_of(reader.table.ids[slots]))

    def _rewrite(self, pack: PackName, dead: NDArray[np.int64], marker: Marker) -> None:
        """Write the next generation of a pack without its dead slots, and delete the older ones."""
        names = generations(self._store, pack)
        reader = self._open(names)
        if reader is None:
            return
        try:
            keep = reader.table.codecs != Codec.EMPTY
            keep[dead[dead < len(keep)]] = False
            before = sum(self._size(name) for name in names)
            try:
                fresh = write_generation(self._store, self._keys, reader, keep=keep)
            except CorruptionError as error:
                self._leave(error)
                return
            except DeviceError as error:
                if error.kind != "store.no-space":
                    raise
                self._monitor.warn(error.kind, f"{error.message}: the pack is left as it is; run prune again")
                return
            if not self._read_back(pack, fresh, marker):
                self._store.delete(fresh)
                self._session.shelf.newest_reader(pack)
                return
            self._forget(pack, reader, dead[dead < len(keep)])
            self._delete_generations(names)
            after = self._size(fresh)
            self._result.rewritten_packs += 1
            self._result.moved_bytes += after
            self._result.freed_bytes += before - after
        finally:
            reader.close()

    def _leave(self, error: CorruptionError) -> None:
        self._monitor.warn(error.kind, f"{error.message}: the pack is left as it is; run `blockvault verify --all`")

    def _read_back(self, pack: PackName, name: str, marker: Marker) -> bool:
        """Whether a pack's generation `name` has every slot that is needed, and all that it has decodes to its id."""
        shelf = self._session.shelf
        try:
            reader = shelf.newest_reader(pack)
        except CorruptionError:
            return False
        if reader.name != name:
            return False
        slots = np.union1d(np.flatnonzero(reader.table.codecs != Codec.EMPTY), np.flatnonzero(marker.needed.of(pack)))
        size = batch_chunks(reader.table.chunk_size)
        for start in range(0, len(slots), size):
            rows = slots[start : start + size]
            got = fetch(shelf, self._keys, [pack], np.zeros(len(rows), np.int64), rows, reader.table.chunk_size)
            if not got.all_good:
                bad = int(rows[np.flatnonzero(got.status)[0]])
                self._leave(
                    CorruptionError("vault.block-damaged", f"block {bad} of the vault's pack {name} is damaged")
                )
                return False
        return True

    def _delete_generations(self, names: list[str]) -> None:
        for name in reversed(names):
            reach("reclaim.delete-generation")
            self._store.delete(name)

    def _drop_older_generations(self, marker: Marker) -> None:
        """What a run that was interrupted left: older generations of a pack whose newest has all that is needed."""
        for pack, names in self._session.shelf.all_packs():
            if len(names) > 1 and pack in marker.needed and self._read_back(pack, names[0], marker):
                self._result.freed_bytes += sum(self._size(name) for name in names[1:])
                self._delete_generations(names[1:])

    def _tidy(self) -> None:
        """Records of ended points, index segments of packs that are gone, scratch, and rounds that are over.

        Leases are looked at once more: whoever takes one after this sees that the point has ended, and gives up.
        """
        leases = live_leases(self._store, self._keys)
        named = {ref for lease in leases for ref in lease.parents or ()}
        for ref in self._session.catalog.ended():
            if ref not in named:
                reach("reclaim.drop-record")
                self._session.catalog.drop_record(ref)
        if self._spent:
            self._drop_index_segments()
        for name in self._spent:
            reach("reclaim.unmark")
            self._store.delete(name)
        condemned.drop_closed_rounds(self._store)
        if self._spent or self._result.deleted_layers or self._result.rewritten_packs:
            layers, packs = self._there()
            self._outlines.keep_only(layers, [name for _, names in packs for name in names])
        if not leases:
            self._result.freed_bytes += self._store.remove_scratch(SCRATCH_SECONDS)

    def _drop_index_segments(self) -> None:
        segments = record_names(self._store, Kind.INDEX)  # before the packs: a segment comes after those it names
        there = {pack for pack, _ in self._session.shelf.all_packs()}
        gone: list[str] = []
        for name in segments:
            try:
                body, _ = unseal_record(self._keys, Kind.INDEX, name, self._store.read(name))
                packs, *_ = decode_index(name, body)
            except BlockVaultError:
                continue
            if not there.intersection(packs):
                self._result.freed_bytes += self._size(name)
                reach("reclaim.delete-segment")
                self._store.delete(name)
                gone.append(name.removeprefix("main/index/"))
        if self._session.index is not None:
            self._session.index.forget_segments(gone)


def _is_name(entry: str) -> bool:
    return len(entry) == 32 and all(letter in "0123456789abcdef" for letter in entry)
