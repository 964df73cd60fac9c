"""Check a vault's structure: all that `verify --quick` looks at, what nobody needs any more, and LMDB.

No block is decoded. Without `quick` every generation of every pack is opened too, also of packs that no point names,
and each entry of the dedup index and of the index segments is compared with the table that it names.

Only what keeps a point, or a record, from being what it must be is damage. Leftovers are counted, and freed by
`prune`; an entry of the index that names nothing any more costs space, never correctness (R2).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from blockvault.engine.session import Session
from blockvault.engine.verifying import make_verifier
from blockvault.errors import BlockVaultError, CorruptionError, NotFoundError
from blockvault.format.envelope import Kind, unseal_record
from blockvault.format.index import decode_index, prefixes_of
from blockvault.format.layers import ENTRY_SEGMENT
from blockvault.ids import LayerName, PackName
from blockvault.model import BlockDamage, CheckReport, Codec, Leftover, Point, PointInfo
from blockvault.monitor import Monitor
from blockvault.store.catalog import COPIED_KINDS, folder_of, record_names
from blockvault.store.layers import LAYERS_FOLDER, LayerReader, layer_object
from blockvault.store.leases import dead_leases
from blockvault.store.packs import read_table

INDEX_ROWS = 100_000
SCRATCH_SECONDS = 24 * 3600


@dataclass(slots=True)
class _Index:
    entries: int = 0
    stale: int = 0
    bad_copies: int = 0


@dataclass(slots=True)
class Named:
    """What the points that count name: layers, and the packs that their layers name, as place or as base."""

    layers: set[LayerName] = field(default_factory=set)
    packs: set[PackName] = field(default_factory=set)
    complete: bool = True  # whether every layer could be read


def named_by(session: Session, points: Iterable[Point], monitor: Monitor) -> Named:
    """Walk every layer that points list, once."""
    found = Named()
    for point in points:
        for disk in point.disks:
            for ref in disk.layers:
                if ref.name in found.layers:
                    continue
                found.layers.add(ref.name)
                monitor.check()
                try:
                    reader = LayerReader(session.store, session.keys, ref, disk.chunk_size)
                except CorruptionError:
                    found.complete = False
                    continue
                try:
                    for entry in reader.entries:
                        if entry["kind"] == ENTRY_SEGMENT:
                            found.packs.update(reader.segment(entry).packs)
                except CorruptionError:
                    found.complete = False
                finally:
                    reader.close()
    return found


class Check:
    """One check of an opened vault; `run` it once."""

    def __init__(self, session: Session, monitor: Monitor) -> None:
        self._session = session
        self._monitor = monitor
        self._leftovers: list[Leftover] = []
        self._index = _Index()

    def run(
        self, infos: list[PointInfo], *, quick: bool, moment: datetime, elapsed: Callable[[], float]
    ) -> CheckReport:
        """See `Vault.check`."""
        session, monitor = self._session, self._monitor
        points = [(info.label, info.point) for info in infos if info.point is not None]
        verifier = make_verifier(session, monitor, moment)
        found = verifier.run(points, quick=True, everything=True)
        named = named_by(session, session.catalog.points(), monitor)  # all roots, deleted ones too
        packs = session.shelf.all_packs()
        layers = [entry for entry in session.store.entries(LAYERS_FOLDER) if re.fullmatch(r"[0-9a-f]{32}", entry)]
        self._count_leftovers(named, packs, layers)
        damage = {(one.object, one.slot): one for one in found.damage}
        if not quick:
            for one in self._open_all(packs):
                damage.setdefault((one.object, one.slot), one)
            self._compare_segments()
        self._compare_lmdb(quick=quick)
        session.quarantine.refresh()
        if self._index.bad_copies:
            monitor.warn(
                "vault.index-damaged",
                f"{self._index.bad_copies} copies of records in the LMDB store are damaged: `blockvault vault repair "
                "--index` makes it anew",
            )
        return CheckReport(
            quick=quick,
            points=len(points),
            packs=len(packs),
            layers=len(layers),
            damage=tuple(sorted(damage.values(), key=lambda one: (one.object, -1 if one.slot is None else one.slot))),
            leftovers=tuple(self._leftovers),
            quarantined=session.quarantine.count,
            index_entries=self._index.entries,
            index_stale=self._index.stale,
            seconds=elapsed(),
            warnings=tuple(warning.message for warning in monitor.warnings),
        )

    def _count_leftovers(self, named: Named, packs: list[tuple[PackName, list[str]]], layers: list[str]) -> None:
        store = self._session.store
        if named.complete:  # of what a layer names that cannot be read nothing can be said
            unnamed = [name for pack, names in packs if pack not in named.packs for name in names]
            self._leave("packs that no point names", unnamed)
        known = {name.hex() for name in named.layers}
        self._leave(
            "layers that no point names",
            [layer_object(LayerName(bytes.fromhex(entry))) for entry in layers if entry not in known],
        )
        self._leave("older generations of packs", [name for _, names in packs for name in names[1:]])
        self._leave("leases of processes that died", dead_leases(store))
        old = []
        for entry in store.entries("tmp"):
            try:
                if time_of(os.path.join(store.root, "tmp", entry)) < store.now() - SCRATCH_SECONDS:
                    old.append(f"tmp/{entry}")
            except OSError:
                continue
        self._leave("unfinished files older than a day", old)

    def _leave(self, what: str, names: list[str]) -> None:
        if not names:
            return
        total = 0
        for name in names:
            try:
                total += self._session.store.size(name)
            except NotFoundError:
                continue
        self._leftovers.append(Leftover(what, len(names), total))

    def _open_all(self, packs: list[tuple[PackName, list[str]]]) -> Iterator[BlockDamage]:
        """Every generation of every pack: its table reads, and its size is what that says."""
        for _, names in packs:
            for name in names:
                self._monitor.check()
                try:
                    read_table(self._session.store, self._session.keys, name).close()
                    self._monitor.count("tables_read")
                except NotFoundError:
                    continue
                except CorruptionError as error:
                    yield BlockDamage(name, None, error.why or error.message, ())

    def _compare_segments(self) -> None:
        session = self._session
        for name in record_names(session.store, Kind.INDEX):
            self._monitor.check()
            try:
                body, _ = unseal_record(session.keys, Kind.INDEX, name, session.store.read(name))
                packs, prefixes, pack, slot = decode_index(name, body)
            except BlockVaultError:
                continue  # named among the damage already
            rows = [(int(prefixes[i]), packs[int(pack[i])], int(slot[i])) for i in range(len(prefixes))]
            self._compare(rows)

    def _compare_lmdb(self, *, quick: bool) -> None:
        index = self._session.index
        if index is None:
            return
        for kind in COPIED_KINDS:
            for name, data in index.records(folder_of(kind)).items():
                try:
                    unseal_record(self._session.keys, kind, name, data)
                except BlockVaultError:
                    self._index.bad_copies += 1
        if quick:
            return
        for rows in index.entries(INDEX_ROWS):
            self._monitor.check()
            self._compare(rows)

    def _compare(self, rows: list[tuple[int, PackName, int]]) -> None:
        """Entries (prefix, pack, slot): those that name no full block of that id are stale."""
        by_pack: dict[PackName, list[tuple[int, int]]] = {}
        for prefix, pack, slot in rows:
            by_pack.setdefault(pack, []).append((slot, prefix))
        for pack, entries in sorted(by_pack.items()):
            self._index.entries += len(entries)
            try:
                table = self._session.shelf.reader(pack).table
            except CorruptionError:
                self._index.stale += len(entries)
                continue
            slots = np.array([slot for slot, _ in entries], dtype=np.int64)
            wanted = np.array([prefix for _, prefix in entries], dtype=np.uint64)
            at = np.minimum(slots, table.slot_count - 1)
            good = (slots < table.slot_count) & np.isin(table.codecs[at], (int(Codec.RAW), int(Codec.ZSTD)))
            good &= prefixes_of(table.ids[at]) == wanted
            self._index.stale += int(np.count_nonzero(~good))


def time_of(path: str) -> float:
    """When a file was last changed, by its file system."""
    return os.stat(path).st_mtime
