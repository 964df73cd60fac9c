"""The library's front door: `from blockvault import Vault`.

    with Vault.open_or_create() as vault:
        result = vault.snapshot(["disk.img"])
        vault.restore(str(result.number), output="restored.img")

A `Vault` wires the parts together; what each verb does in detail stands in `engine/`. One `Vault` of a folder may be
open in a process at a time (LMDB's rule); any number of processes may work on one vault, on different items at once.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

from blockvault.clock import to_text, utc_now
from blockvault.config import DEFAULT_VAULT, default_state_dir, default_vault, vault_path
from blockvault.engine import diff as diff_engine
from blockvault.engine.churn import ChurnFinder, dry_run
from blockvault.engine.naming import point_id, resolve
from blockvault.engine.restoring import RestoreRequest, Restorer
from blockvault.engine.transfer import DiskTransfer, Transfer, TransferContext
from blockvault.engine.usage import measure
from blockvault.engine.verify import Verifier
from blockvault.errors import (
    BlockVaultError,
    ConflictError,
    CorruptionError,
    DeviceError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from blockvault.format import records
from blockvault.format.envelope import Kind, seal_record, unseal_record
from blockvault.format.index import decode_index
from blockvault.ids import (
    DISK_NAME,
    ItemId,
    OriginId,
    check_item_name,
    check_vault_name,
    name_from_stem,
    random_name,
)
from blockvault.image.reader import DiskReader
from blockvault.image.source import ImageSource, SourceState
from blockvault.model import (
    ChurnSource,
    Consistency,
    DiffExtent,
    DiffResult,
    DiskSpec,
    DryRunResult,
    Item,
    Point,
    PointInfo,
    PointRef,
    PointStatistics,
    RestoreResult,
    Secret,
    SnapshotRecord,
    SnapshotResult,
    Tier,
    UsageReport,
    VerifyReport,
)
from blockvault.monitor import Monitor
from blockvault.snapshots.tier import SnapshotTier
from blockvault.store.catalog import Catalog
from blockvault.store.digests import DigestState
from blockvault.store.folder import VaultFolder, create_vault, open_folder, read_header
from blockvault.store.host import HostState
from blockvault.store.index import Index
from blockvault.store.packs import PackShelf
from blockvault.units import CHUNK_BYTES_DEFAULT, check_chunk_size

SNAPSHOT_DAYS_MAX = 30


@dataclass(frozen=True, slots=True)
class VaultSummary:
    """A vault as `vault list` shows it; `error` says why it cannot be opened."""

    name: str
    path: str
    id: str
    encrypted: bool
    format_version: int
    error: str | None = None


_open_here: set[str] = set()
_open_lock = threading.Lock()


class Vault:
    """An opened vault. Use `create`, `open` or `open_or_create`; close it, or use it in a `with` statement."""

    def __init__(self, folder: VaultFolder, *, name: str, state_dir: str, now: datetime, created_now: bool) -> None:
        self._folder = folder
        self._keys = folder.keys
        self._store = folder.store
        self.name = name
        self.path = folder.path
        self.id = folder.header.vault_id
        self.encrypted = folder.keys.encrypted
        self.chunk_size = folder.header.chunk_size
        self.format_version = folder.header.format_version
        self.created = folder.header.created
        self.created_now = created_now
        self.state_dir = state_dir
        with _open_lock:
            if self.path in _open_here:
                raise ConflictError(
                    "vault.open-twice",
                    f"the vault at {self.path} is already open in this process",
                    why="LMDB must not be opened twice in one process",
                    do="use the Vault that is open, or close it first",
                )
            _open_here.add(self.path)
        self._index: Index | None = None
        try:
            self._index = folder.open_index()
            self._catalog = Catalog(self._store, self._keys, self._index)
            self._shelf = PackShelf(self._store, self._keys)
            self._host = HostState(
                os.path.join(state_dir, "hosts", self.id), vault_id=self.id, header_path=folder.header_path, now=now
            )
            self._record = self._host.bind(self._catalog.newest_numbers())
            self.origin = OriginId(self._record.origin)
            if self._index is not None:
                self._register_origin(now)
                self._bring_up_index()
            self._tier = SnapshotTier(self._host.folder, self.id)
        except BaseException:
            self.close()
            raise

    # --- making, opening, listing ------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        name_or_path: str = DEFAULT_VAULT,
        *,
        path: str | None = None,
        state_dir: str | None = None,
        chunk_size: int = CHUNK_BYTES_DEFAULT,
        secret: Secret | None = None,
        now: datetime | None = None,
    ) -> Vault:
        """Make a vault and open it.

        Args:
            name_or_path: its name; with a slash, the folder to make it in.
            path: the folder to make it in, if it shall lie elsewhere than under the state folder.
            state_dir: the host's state folder; None: as configured.
            chunk_size: bytes of a chunk for items that do not say otherwise.
            secret: encrypts the vault; None: no encryption.
            now: the moment, for records.

        Raises:
            InvalidInputError: the name or chunk size cannot be.
            AlreadyExistsError: there is something already (`vault.exists`).
            DeviceError: the system refused.
        """
        state = os.path.abspath(state_dir) if state_dir else default_state_dir()
        moment = now or utc_now()
        check_chunk_size(chunk_size)
        name = os.path.basename(name_or_path.rstrip("/")) if "/" in name_or_path else name_or_path
        check_vault_name(name)
        place = os.path.abspath(path) if path else vault_path(name_or_path, state)
        registered = os.path.join(state, "vaults", name)
        if path and os.path.lexists(registered):
            raise InvalidInputError(
                "vault.name-taken",
                f"there is already a vault named '{name}'",
                why=f"{registered} is there",
                do="choose another name",
            )
        create_vault(place, name, chunk_size=chunk_size, secret=secret, now=moment)
        if path:
            os.makedirs(os.path.dirname(registered), mode=0o700, exist_ok=True)
            os.symlink(place, registered)
        return cls(open_folder(place, secret), name=name, state_dir=state, now=moment, created_now=True)

    @classmethod
    def open(
        cls,
        name_or_path: str | None = None,
        *,
        state_dir: str | None = None,
        secret: Secret | None = None,
        now: datetime | None = None,
    ) -> Vault:
        """Open a vault by name or folder; None: `$BLOCKVAULT_VAULT`, or `default`.

        Raises:
            NotFoundError: there is none (`vault.not-found`, `vault.not-a-vault`).
            WrongKeyError: it is encrypted and `secret` does not open it.
            UnsupportedError, CorruptionError: it is of a newer format, or its header is damaged.
        """
        state = os.path.abspath(state_dir) if state_dir else default_state_dir()
        wanted = name_or_path or default_vault()
        place = vault_path(wanted, state)
        folder = open_folder(place, secret)
        name = wanted if "/" not in wanted else folder.config.name
        return cls(folder, name=name, state_dir=state, now=now or utc_now(), created_now=False)

    @classmethod
    def open_or_create(
        cls,
        name_or_path: str | None = None,
        *,
        state_dir: str | None = None,
        secret: Secret | None = None,
        now: datetime | None = None,
    ) -> Vault:
        """Open a vault; the default one is made, without encryption, when there is none."""
        try:
            return cls.open(name_or_path, state_dir=state_dir, secret=secret, now=now)
        except NotFoundError as error:
            if error.kind != "vault.not-found" or (name_or_path or default_vault()) != DEFAULT_VAULT:
                raise
            try:
                return cls.create(DEFAULT_VAULT, state_dir=state_dir, now=now)
            except BlockVaultError as problem:
                if problem.kind != "vault.exists":
                    raise
                return cls.open(name_or_path, state_dir=state_dir, secret=secret, now=now)

    @staticmethod
    def list(state_dir: str | None = None) -> list[VaultSummary]:
        """The vaults that this host knows by name."""
        state = os.path.abspath(state_dir) if state_dir else default_state_dir()
        top = os.path.join(state, "vaults")
        found = []
        for name in sorted(os.listdir(top)) if os.path.isdir(top) else []:
            if name.startswith("."):
                continue
            path = os.path.realpath(os.path.join(top, name))
            try:
                header = read_header(path)
                found.append(VaultSummary(name, path, header.vault_id, header.encryption != "none", header.format_version))
            except BlockVaultError as error:
                found.append(VaultSummary(name, path, "", False, 0, error.message))
        return found

    def close(self) -> None:
        """Close the vault; safe to call again."""
        if getattr(self, "_shelf", None) is not None:
            self._shelf.close()
        if self._index is not None:
            self._index.close()
            self._index = None
        with _open_lock:
            _open_here.discard(self.path)

    def __enter__(self) -> Vault:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _register_origin(self, now: datetime) -> None:
        name = f"origins/{self.origin}"
        if not self._store.exists(name):
            body = records.OriginBody(origin=self.origin, label=self._record.label, created=to_text(now))
            data, _ = seal_record(self._keys, Kind.ORIGIN, name, records.encode(body))
            try:
                self._store.put_new(name, data)
            except BlockVaultError as error:
                if error.kind != "store.exists":
                    raise

    def _bring_up_index(self) -> None:
        """Take in index segments of other processes and hosts; all of them, if the index was lost."""
        assert self._index is not None
        seen = self._index.segments()
        for origin in self._store.entries("main/index"):
            for entry in sorted(self._store.entries(f"main/index/{origin}")):
                key = f"{origin}/{entry}"
                if key in seen:
                    continue
                name = f"main/index/{key}"
                try:
                    body, _ = unseal_record(self._keys, Kind.INDEX, name, self._store.read(name))
                    self._index.add_blocks(*decode_index(name, body), key)
                except (CorruptionError, NotFoundError):
                    continue  # costs dedup only; `verify` names it

    def _label(self, origin: OriginId) -> str:
        name = f"origins/{origin}"
        try:
            body, _ = unseal_record(self._keys, Kind.ORIGIN, name, self._store.read(name))
            label = str(records.decode(name, body, records.OriginBody).label)
        except BlockVaultError:
            return origin[:8]
        return label

    # --- items ---------------------------------------------------------------------------------------------------

    def items(self) -> list[Item]:
        """Items of the vault, by name."""
        return self._catalog.items()

    def item(self, name: str) -> Item:
        """The item of that name. Raises `NotFoundError` (`item.not-found`)."""
        for item in self._catalog.items():
            if item.name == name:
                return item
        known = ", ".join(item.name for item in self._catalog.items()[:8]) or "none yet"
        raise NotFoundError(
            "item.not-found",
            f"the vault '{self.name}' has no item '{name}'",
            why=f"its items: {known}",
            do="see `blockvault item list`; `blockvault snapshot DISK` registers a disk image by itself",
        )

    def set_item(
        self,
        name: str,
        *,
        new_name: str | None = None,
        snapshot_days: int | None = None,
        snapshot_dir: str | None = None,
        comment: str | None = None,
        disks: dict[str, str] | None = None,
    ) -> Item:
        """Change an item's record; points keep the name that they were taken under.

        Args:
            name: the item.
            new_name: its new name.
            snapshot_days: how long snapshots are kept, 0 to 30 days; 0 keeps none.
            snapshot_dir: where they lie; "" to have the place chosen.
            comment: free text.
            disks: new paths of disks, by name (an image that was moved).
        """
        item = self.item(name)
        if new_name is not None:
            check_item_name(new_name)
            if any(other.name == new_name for other in self._catalog.items()):
                raise InvalidInputError("item.name-taken", f"there is already an item '{new_name}'", do="choose another name")
        if snapshot_days is not None and not 0 <= snapshot_days <= SNAPSHOT_DAYS_MAX:
            raise InvalidInputError(
                "item.snapshot-days", f"snapshots cannot be kept for {snapshot_days} days", why="0 to 30 days are possible"
            )
        specs = item.disks
        if disks:
            unknown = set(disks) - {disk.name for disk in item.disks}
            if unknown:
                raise NotFoundError("disk.not-found", f"item '{name}' has no disk '{sorted(unknown)[0]}'")
            specs = tuple(
                DiskSpec(disk.name, os.path.realpath(disks[disk.name])) if disk.name in disks else disk for disk in item.disks
            )
        changed = replace(
            item,
            name=new_name or item.name,
            disks=specs,
            snapshot_days=item.snapshot_days if snapshot_days is None else snapshot_days,
            snapshot_dir=item.snapshot_dir if snapshot_dir is None else (os.path.abspath(snapshot_dir) if snapshot_dir else None),
            comment=item.comment if comment is None else comment,
            revision=item.revision + 1,
        )
        self._catalog.put_item(changed)
        return changed

    def _find_item(self, targets: list[str], name: str | None, now: datetime) -> tuple[Item, bool, str | None]:
        """The item of the targets, whether it is new, and a note on how it came by its name."""
        if not targets:
            raise InvalidInputError("snapshot.no-disk", "no disk image was named", do="blockvault snapshot DISK...")
        items = self._catalog.items()
        if len(targets) == 1 and "/" not in targets[0] and not os.path.lexists(targets[0]):
            named = [item for item in items if item.name == targets[0]]
            if named:
                return named[0], False, None
        paths = [os.path.realpath(target) for target in targets]
        for target, path in zip(targets, paths, strict=True):
            if not os.path.exists(path):
                raise DeviceError(
                    "image.not-found",
                    f"there is no disk image or item '{target}'",
                    why=f"{path} does not exist, and no item of the vault '{self.name}' has that name",
                    do="check the path; see `blockvault item list`",
                )
        if len(set(paths)) != len(paths):
            raise InvalidInputError("snapshot.disk-twice", "a disk image was named twice", do="name each once")
        if name is not None:
            check_item_name(name)
        for item in items:
            if {disk.path for disk in item.disks} == set(paths) and name in (None, item.name):
                return item, False, None
            if name == item.name:
                raise InvalidInputError(
                    "item.other-disks",
                    f"item '{name}' has other disks than those named",
                    why=", ".join(f"{disk.name}: {disk.path}" for disk in item.disks),
                    do="choose another --name, or tell it where its disks are now with `blockvault item set`",
                )
        stem = os.path.splitext(os.path.basename(paths[0]))[0]
        chosen = name or self._free_name(name_from_stem(stem), items)
        note = None
        if name is None and chosen != stem:
            note = f"{paths[0]} is registered as item '{chosen}'"
        disks: list[DiskSpec] = []
        for path in paths:
            disk_name = name_from_stem(os.path.splitext(os.path.basename(path))[0], DISK_NAME)
            taken = {disk.name for disk in disks}
            number = 2
            base = disk_name
            while disk_name in taken:
                disk_name = f"{base[:76]}-{number}"
                number += 1
            disks.append(DiskSpec(disk_name, path))
        item = Item(ItemId(random_name().hex()), chosen, tuple(disks), self.chunk_size, now)
        return item, True, note

    @staticmethod
    def _free_name(wanted: str, items: list[Item]) -> str:
        taken = {item.name for item in items}
        name, number = wanted, 2
        while name in taken:
            name = f"{wanted[:76]}-{number}"
            number += 1
        return name

    # --- snapshot: capture, then transfer ------------------------------------------------------------------------

    def snapshot(
        self,
        targets: list[str],
        *,
        name: str | None = None,
        keep: bool = True,
        snapshot_only: bool = False,
        full: bool = False,
        consistency: Consistency = Consistency.CRASH,
        tags: dict[str, str] | None = None,
        comment: str = "",
        retain_until: datetime | None = None,
        level: int = 1,
        now: datetime | None = None,
        monitor: Monitor | None = None,
    ) -> SnapshotResult:
        """Take a recovery point: capture a snapshot, then transfer the churn to the vault.

        Args:
            targets: paths of disk images or devices (one point of all of them), or the name of one item.
            name: the item's name when it is new.
            keep: keep a snapshot in the instant-restore tier; else the image is read straight into the vault.
            snapshot_only: capture only; `transfer` moves it later.
            full: compare every chunk by identity, not by digest.
            consistency: `CRASH`: an image that changes while it is read without a snapshot under it ends the job;
                `NONE`: it is taken as it comes and the point says so.
            tags, comment, retain_until: kept in the point's record.
            level: zstd level, 1 to 19.
            now: the moment of the point; None: the system's clock.
            monitor: told of progress and warnings.

        Raises:
            DeviceError: an image cannot be read (`image.*`), or space ran out (`store.no-space`).
            ConflictError: another process captures or transfers this item (`item.locked`).
            InvalidInputError: the request contradicts itself.
        """
        monitor = monitor or Monitor()
        begun = time.monotonic()
        moment = now or utc_now()
        self._check_options(keep=keep, snapshot_only=snapshot_only, consistency=consistency, level=level)
        self._writable()
        item, is_new, note = self._find_item(targets, name, moment)
        sources = [ImageSource.open(disk.path, item.chunk_size) for disk in item.disks]
        try:
            with self._item_lock(item, "capture"):
                if is_new:
                    item = self._register(item)
                    if note:
                        monitor.note(note)
                origin_newest = max(self._catalog.newest_numbers().values(), default=0)
                number = self._host.allocate_number(origin_newest)
                before = [source.state() for source in sources]
                record = None
                reached = consistency
                if keep and item.snapshot_days > 0:
                    record = self._capture(
                        item, number, sources, moment, consistency, tags or {}, comment, retain_until, monitor
                    )
                if record is not None:
                    reached = record.consistency
                elif snapshot_only:
                    raise InvalidInputError(
                        "snapshot.cannot-keep",
                        "no snapshot can be kept, so there is nothing to do in phase 1",
                        why=monitor.warnings[-1].message if monitor.warnings else "snapshots are off for this item",
                        do="leave out --snapshot-only",
                    )
                elif consistency is not Consistency.NONE:
                    for source in sources:
                        source.check_no_writer()
                captured = time.monotonic()
                if record is None:
                    # Without a snapshot the live image is the source: nobody else may capture meanwhile.
                    with self._item_lock(item, "transfer"):
                        point = self._transfer_live(
                            item, number, sources, before, moment, reached, tags or {}, comment, retain_until,
                            full=full, level=level, monitor=monitor,
                        )  # fmt: skip
            point_made = None if record is not None else point
            if record is not None and not snapshot_only:
                point_made = self._transfer_record(record, full=full, level=level, monitor=monitor, wait=False)
        finally:
            for source in sources:
                source.close()
        ended = time.monotonic()
        return self._result(
            item, number, record, point_made, reached, monitor, begun, captured, ended, sum(s.size for s in sources)
        )

    def _check_options(self, *, keep: bool, snapshot_only: bool, consistency: Consistency, level: int) -> None:
        if not 1 <= level <= 19:
            raise InvalidInputError("snapshot.level", f"there is no compression level {level}", why="levels are 1 to 19")
        if snapshot_only and not keep:
            raise InvalidInputError(
                "snapshot.contradiction", "--snapshot-only and --no-keep contradict each other", do="leave one of them out"
            )
        if consistency in (Consistency.FILE_SYSTEM, Consistency.APPLICATION):
            raise UnsupportedError(
                "snapshot.consistency",
                f"a point that is {consistency.value}-consistent needs hooks, which this version does not have",
                do="freeze the guest yourself and use --consistency crash",
            )

    def _writable(self) -> None:
        if self._index is None:
            raise DeviceError(
                "vault.read-only",
                f"the vault at {self.path} cannot be written",
                why="the folder or its file system is read-only for this user",
                do="check the rights on the folder; restore and verify work as it is",
            )

    def _item_lock(self, item: Item, phase: str) -> Any:
        verb = {"capture": "captured", "transfer": "transferred"}[phase]
        return self._host.lock(
            f"item-{item.id}.{phase}", kind="item.locked", subject=f"item '{item.name}' is being {verb}"
        )

    def _register(self, item: Item) -> Item:
        """Write a new item's record; another process may have taken the name meanwhile."""
        with self._host.lock("items", kind="host.locked", subject="items are being registered", wait_seconds=30):
            self._catalog.refresh()
            for other in self._catalog.items():
                if {disk.path for disk in other.disks} == {disk.path for disk in item.disks}:
                    return other
            item = replace(item, name=self._free_name(item.name, self._catalog.items()))
            self._catalog.put_item(item)
            return item

    def _capture(
        self,
        item: Item,
        number: int,
        sources: list[ImageSource],
        now: datetime,
        consistency: Consistency,
        tags: dict[str, str],
        comment: str,
        retain_until: datetime | None,
        monitor: Monitor,
    ) -> SnapshotRecord | None:
        """Phase 1. None, with a warning, where no snapshot can be kept: the point then goes to the vault only."""
        place = self._tier.place(item, sources, os.path.join(self.state_dir, "snapshots"), folder=item.snapshot_dir)
        if place.folder is None:
            monitor.warn("snapshot.no-room", f"no snapshot is kept: {place.reason}; the point goes to the vault only")
            return None
        monitor.phase("Capture", sum(source.size for source in sources))
        try:
            capture = self._tier.capture(
                item,
                number,
                sources,
                place,
                now=now,
                keep_until=now + timedelta(days=item.snapshot_days),
                consistency=consistency,
                tags=tags,
                comment=comment,
                retain_until=retain_until,
                seed=self._keys.digest_seed,
                digests_dir=self._digests_of(item.id),
                monitor=monitor,
            )
        except DeviceError as error:
            if error.kind != "snapshot.no-space":
                raise
            monitor.warn(error.kind, f"no snapshot is kept: {error.message}; the point goes to the vault only")
            return None
        return capture.record

    def _digests_of(self, item_id: str) -> str:
        return os.path.join(self._host.digests_folder, item_id)

    def _transfer_live(
        self,
        item: Item,
        number: int,
        sources: list[ImageSource],
        before: list[SourceState],
        now: datetime,
        consistency: Consistency,
        tags: dict[str, str],
        comment: str,
        retain_until: datetime | None,
        *,
        full: bool,
        level: int,
        monitor: Monitor,
    ) -> Point:
        def unchanged() -> None:
            if consistency is Consistency.NONE:
                return
            for source, state in zip(sources, before, strict=True):
                source.check_unchanged(state)

        readers: list[tuple[str, str, DiskReader]] = [
            (disk.name, disk.path, source) for disk, source in zip(item.disks, sources, strict=True)
        ]
        blank = self._blank_point(item.id, item.name, number, now, consistency, tags, comment, retain_until)
        return self._run_transfer(blank, readers, item.chunk_size, unchanged, full=full, level=level, monitor=monitor)

    def _transfer_record(
        self, record: SnapshotRecord, *, full: bool, level: int, monitor: Monitor, wait: bool
    ) -> Point | None:
        """Phase 2 of a snapshot. None, with a warning, when another transfer of the item runs: it is skipped."""
        item = self._catalog.item(record.item_id)
        lock = self._host.lock(
            f"item-{record.item_id}.transfer",
            kind="item.locked",
            subject=f"item '{record.item_name}' is being transferred",
            wait_seconds=0,
        )
        try:
            lock.__enter__()
        except ConflictError as error:
            if wait:
                raise
            monitor.warn(
                "transfer.skipped",
                f"{error.message}: this point stays a snapshot until `blockvault transfer` or the next run",
            )
            return None
        try:
            readers: list[tuple[str, str, DiskReader]] = []
            try:
                for disk in record.disks:
                    reader = self._tier.open_disk(record, disk.name, digests_dir=self._digests_of(record.item_id))
                    readers.append((disk.name, disk.path, reader))
                blank = self._blank_point(
                    record.item_id, item.name if item else record.item_name, record.number, record.taken,
                    record.consistency, record.tags, record.comment, record.retain_until,
                )  # fmt: skip
                point = self._run_transfer(
                    blank, readers, record.chunk_size, lambda: None, full=full, level=level, monitor=monitor
                )
            finally:
                for _, _, reader in readers:
                    reader.close()
            self._tier.mark_transferred(record)
            self._expire_snapshots(record)
            return point
        finally:
            lock.__exit__(None, None, None)

    def _expire_snapshots(self, newest: SnapshotRecord) -> None:
        """Remove snapshots whose days are over; that of the newest transferred point stays (R11)."""
        keep = {newest.number}
        for record in self._tier.records():
            if not record.transferred:
                keep.add(record.number)
        for item_id in {record.item_id for record in self._tier.records()}:
            transferred = [record.number for record in self._tier.records(item_id) if record.transferred]
            if transferred:
                keep.add(max(transferred))
        self._tier.expire(utc_now() if newest.taken < utc_now() else newest.taken, keep_numbers=keep)

    def _blank_point(
        self,
        item_id: ItemId,
        item_name: str,
        number: int,
        taken: datetime,
        consistency: Consistency,
        tags: dict[str, str],
        comment: str,
        retain_until: datetime | None,
    ) -> Point:
        return Point(
            ref=PointRef(self.origin, number),
            id=point_id(self._keys.vault_id, self.origin, number),
            item_id=item_id,
            item_name=item_name,
            taken=taken,
            committed=utc_now(),
            consistency=consistency,
            churn_source=ChurnSource.INITIAL,
            audit="",
            disks=(),
            statistics=PointStatistics(),
            tags=tags,
            comment=comment,
            retain_until=retain_until,
        )

    def _parent_of(self, item_id: str) -> Point | None:
        """The newest point of the item: of this host if there is one, else of any."""
        points = [point for point in self._catalog.points() if point.item_id == item_id]
        own = [point for point in points if point.ref.origin == self.origin]
        if own:
            return max(own, key=lambda point: point.ref.number)
        return max(points, key=lambda point: (point.taken, point.ref.number), default=None)

    def _inputs(
        self, parent: Point | None, item_id: str, readers: list[tuple[str, str, DiskReader]], chunk_size: int, *, full: bool
    ) -> list[DiskTransfer]:
        inputs = []
        for name, path, reader in readers:
            parent_disk = next((disk for disk in parent.disks if disk.name == name), None) if parent else None
            if parent_disk is not None and parent_disk.chunk_size != chunk_size:
                parent_disk = None
            folder = os.path.join(self._digests_of(item_id), name)
            digests = None
            if parent is not None and parent_disk is not None and not full:
                digests = DigestState.open(
                    folder,
                    "point",
                    vault_id=self.id,
                    record_digest=parent.digest,
                    disk=name,
                    size=parent_disk.size,
                    chunk_size=chunk_size,
                    seed=self._keys.digest_seed,
                )
            inputs.append(DiskTransfer(name, path, reader, parent_disk, digests, folder))
        return inputs

    def _run_transfer(
        self,
        blank: Point,
        readers: list[tuple[str, str, DiskReader]],
        chunk_size: int,
        before_commit: Any,
        *,
        full: bool,
        level: int,
        monitor: Monitor,
    ) -> Point:
        self._writable()
        self._catalog.refresh()
        parent = self._parent_of(blank.item_id)
        inputs = self._inputs(parent, blank.item_id, readers, chunk_size, full=full)
        if parent is not None:
            used = any(disk.parent is not None for disk in inputs)
            blank = replace(blank, parent=parent.ref if used else None, parent_digest=parent.digest if used else None)
        monitor.phase("Transfer", sum(reader.size for _, _, reader in readers))
        by_digest = all(disk.digests is not None for disk in inputs)
        audit = "every chunk was read" if by_digest else "every data chunk was read and compared by identity"
        if parent is None or blank.parent is None:
            audit = "every data chunk was read"
        context = TransferContext(
            self._store, self._keys, self._shelf, self._catalog, self._index, self.origin, monitor, level
        )
        with self._lease(blank, "transfer"):
            transfer = Transfer(context, now=utc_now())
            point = transfer.run(replace(blank, audit=audit), inputs, before_commit=before_commit)
        self._catalog.refresh()
        self._host.committed(self.origin, point.number)
        return point

    def _lease(self, point: Point, operation: str) -> Any:
        from blockvault.store.leases import Lease

        parents = []
        if point.parent is not None:
            parents.append(records.RefBody(point.parent.origin, point.parent.number, (point.parent_digest or b"").hex()))
        return Lease(
            self._store, self._keys, origin=self.origin, operation=operation, item=point.item_name, parents=parents, now=utc_now()
        )

    def _result(
        self,
        item: Item,
        number: int,
        record: SnapshotRecord | None,
        point: Point | None,
        consistency: Consistency,
        monitor: Monitor,
        begun: float,
        captured: float,
        ended: float,
        size: int,
    ) -> SnapshotResult:
        if record is not None:
            tier = Tier.BOTH if point is not None else Tier.SNAPSHOT
        else:
            tier = Tier.VAULT
        figures = point.statistics if point else PointStatistics(read_bytes=int(monitor.counters["read_bytes"]))
        return SnapshotResult(
            item=item.name,
            number=number,
            id=point_id(self._keys.vault_id, self.origin, number),
            tier=tier,
            consistency=consistency,
            statistics=figures,
            churn_source=point.churn_source if point else None,
            audit=point.audit if point else "",
            seconds=ended - begun,
            capture_seconds=captured - begun,
            transfer_seconds=ended - captured,
            job_state="completed-with-warning" if monitor.warnings else "completed",
            size_bytes=size,
            vault=self.name,
            vault_path=self.path,
            vault_created=self.created_now,
            warnings=tuple(warning.message for warning in monitor.warnings),
            snapshot_folder=record.folder if record else None,
        )

    def plan_snapshot(
        self, targets: list[str], *, name: str | None = None, full: bool = False, monitor: Monitor | None = None
    ) -> DryRunResult:
        """What `snapshot` would read and find changed, read from the live image; nothing is written."""
        monitor = monitor or Monitor()
        item, is_new, _ = self._find_item(targets, name, utc_now())
        parent = None if is_new else self._parent_of(item.id)
        changed = 0
        size = 0
        source_kind = ChurnSource.INITIAL
        for disk in item.disks:
            with ImageSource.open(disk.path, item.chunk_size) as source:
                size += source.size
                monitor.phase("Compare", source.size)
                (planned,) = self._inputs(parent, item.id, [(disk.name, disk.path, source)], item.chunk_size, full=full)
                if planned.parent is not None and planned.digests is None:
                    extents = diff_engine.with_image(self._store, self._keys, self._shelf, planned.parent, source, monitor)
                    changed += sum(-(-count // item.chunk_size) for _, count in extents)
                    source_kind = ChurnSource.IDENTITY
                    continue
                finder = ChurnFinder(
                    source, parent=planned.parent, manifest=None, digests=planned.digests,
                    seed=self._keys.digest_seed, monitor=monitor,
                )  # fmt: skip
                count, _ = dry_run(finder)
                changed += count
                source_kind = finder.source if finder.source is not ChurnSource.INITIAL else source_kind
        return DryRunResult(
            item=item.name,
            parent=parent.number if parent else None,
            size_bytes=size,
            read_bytes=int(monitor.counters["read_bytes"]),
            changed_bytes=min(changed * item.chunk_size, size),
            changed_chunks=changed,
            churn_source=source_kind,
        )

    def transfer(
        self, item: str | None = None, *, level: int = 1, monitor: Monitor | None = None
    ) -> list[SnapshotResult]:
        """Run phase 2 for snapshots that still wait, oldest first.

        Args:
            item: only this item's; None: all.
            level: zstd level.
            monitor: told of progress and warnings.
        """
        monitor = monitor or Monitor()
        wanted = self.item(item).id if item is not None else None
        results = []
        for record in self._tier.records(wanted):
            if record.transferred or self._catalog.point(PointRef(self.origin, record.number)):
                continue
            begun = time.monotonic()
            known = self._catalog.item(record.item_id)
            if known is None:
                monitor.warn("item.not-found", f"the snapshot of point {record.number} belongs to no item of this vault")
                continue
            monitor.counters.clear()
            point = self._transfer_record(record, full=False, level=level, monitor=monitor, wait=True)
            size = sum(disk.size for disk in record.disks)
            results.append(
                self._result(
                    known, record.number, record, point, record.consistency, monitor, begun, begun, time.monotonic(), size
                )
            )
        return results

    # --- points --------------------------------------------------------------------------------------------------

    def points(self, item: str | None = None) -> list[PointInfo]:
        """All points, from the vault and the snapshot tier, in order of number; or those of one item."""
        self._catalog.refresh()
        snapshots = {record.number: record for record in self._tier.records()}
        infos: list[PointInfo] = []
        labels: dict[OriginId, str] = {}
        for point in self._catalog.points():
            own = point.ref.origin == self.origin
            if not own and point.ref.origin not in labels:
                labels[point.ref.origin] = self._label(point.ref.origin)
            record = snapshots.pop(point.number, None) if own else None
            infos.append(
                PointInfo(
                    number=point.number,
                    label=str(point.number) if own else f"{labels[point.ref.origin]}:{point.number}",
                    id=point.id,
                    item=point.item_name,
                    taken=point.taken,
                    tier=Tier.BOTH if record else Tier.VAULT,
                    consistency=point.consistency,
                    size_bytes=point.size,
                    statistics=point.statistics,
                    churn_source=point.churn_source,
                    kept_until=point.retain_until,
                    snapshot_until=record.keep_until if record else None,
                    tags=point.tags,
                    comment=point.comment,
                    point=point,
                )
            )
        for record in snapshots.values():
            infos.append(
                PointInfo(
                    number=record.number,
                    label=str(record.number),
                    id=point_id(self._keys.vault_id, self.origin, record.number),
                    item=record.item_name,
                    taken=record.taken,
                    tier=Tier.SNAPSHOT,
                    consistency=record.consistency,
                    size_bytes=sum(disk.size for disk in record.disks),
                    statistics=PointStatistics(),
                    churn_source=None,
                    kept_until=record.retain_until,
                    snapshot_until=record.keep_until,
                    tags=record.tags,
                    comment=record.comment,
                    point=None,
                )
            )
        infos.sort(key=lambda info: (info.number, info.label))
        if item is not None:
            names = {info.item for info in infos} | {known.name for known in self._catalog.items()}
            if item not in names:
                self.item(item)
            infos = [info for info in infos if info.item == item]
        return infos

    def point(self, ref: str) -> PointInfo:
        """The point that `ref` names: `3`, `HOST:3`, an id's prefix, `ITEM@latest`, `ITEM@-1`, `ITEM@DATE`."""
        return resolve(ref, self.points())

    # --- restore -------------------------------------------------------------------------------------------------

    def restore(
        self,
        point: str,
        *,
        disk: str | None = None,
        output: str | None = None,
        source: str = "auto",
        force: bool = False,
        verify: bool = True,
        dry_run: bool = False,
        stream: int | None = None,
        monitor: Monitor | None = None,
    ) -> RestoreResult:
        """Write a point's disks to files or devices, or one disk to a stream.

        Args:
            point: as `point` takes it.
            disk: only this disk.
            output: a file or device (one disk), a folder, or `-` for the stream; None: a name in this folder.
            source: `auto` (the snapshot if there is one), `snapshot` or `vault`.
            force: overwrite a file, write a device.
            verify: check a restore from a snapshot against the point's ids before it is released. A restore from
                the vault always checks every block.
            dry_run: say what would be written, and write nothing.
            stream: file descriptor for `-`.
            monitor: told of progress and warnings.

        Raises:
            NotFoundError: no such point or disk, or it is not in that tier.
            AlreadyExistsError: the target exists (`target.exists`).
            CorruptionError: a block that is needed is damaged; nothing was put in place.
        """
        monitor = monitor or Monitor()
        info = self.point(point)
        records_of = {record.number: record for record in self._tier.records()}
        record = records_of.get(info.number) if info.tier is not Tier.VAULT else None
        request = RestoreRequest(
            info=info, record=record, disk=disk, output=output, source=source, force=force,
            verify=verify, dry_run=dry_run, stream=stream,
        )  # fmt: skip
        restorer = Restorer(self._store, self._keys, self._shelf, self._tier, self._host.digests_folder, monitor)
        return restorer.run(request)

    # --- diff, verify, usage -------------------------------------------------------------------------------------

    def diff(
        self, left: str, right: str | None = None, *, disk: str | None = None, monitor: Monitor | None = None
    ) -> DiffResult:
        """Where two states differ.

        Args:
            left: a point.
            right: a later point, or the path of a disk image; None: `left` against its parent.
            disk: only this disk.
            monitor: told of progress.
        """
        monitor = monitor or Monitor()
        infos = self.points()
        first = resolve(left, infos)
        if first.point is None:
            raise NotFoundError(
                "point.not-in-vault", f"point {first.label} is only a snapshot", do="run `blockvault transfer` first"
            )
        if right is not None and (os.path.sep in right or os.path.exists(right)):
            return self._diff_image(first, right, disk, monitor)
        old, new = first, first
        if right is not None:
            new = resolve(right, infos)
        else:
            parent = first.point.parent
            found = [info for info in infos if info.point is not None and info.point.ref == parent]
            if not found:
                raise NotFoundError(
                    "point.no-parent",
                    f"point {first.label} has no parent point to compare with",
                    why="it was an initial transfer, or its parent is gone",
                    do=f"name two points: blockvault diff OTHER {first.label}",
                )
            old = found[0]
        if new.point is None:
            raise NotFoundError(
                "point.not-in-vault", f"point {new.label} is only a snapshot", do="run `blockvault transfer` first"
            )
        assert old.point is not None
        pairs = [
            (a, b)
            for a in old.point.disks
            for b in new.point.disks
            if a.name == b.name and disk in (None, a.name)
        ]
        if not pairs:
            raise NotFoundError(
                "disk.not-found",
                f"points {old.label} and {new.label} have no disk in common" + (f" named '{disk}'" if disk else ""),
                do="see `blockvault point show`",
            )
        return self._diff_result(
            old.label,
            new.label,
            [
                (
                    b.name,
                    max(a.size, b.size),
                    diff_engine.join(diff_engine.between_points(self._store, self._keys, self._shelf, a, b, monitor)),
                )
                for a, b in pairs
            ],
        )

    def _diff_image(self, info: PointInfo, path: str, disk: str | None, monitor: Monitor) -> DiffResult:
        assert info.point is not None
        real = os.path.realpath(path)
        disks = [d for d in info.point.disks if disk in (None, d.name)]
        matching = [d for d in disks if d.path == real] or disks
        if len(matching) != 1:
            raise InvalidInputError(
                "diff.which-disk",
                f"point {info.label} has {len(matching)} disks that {path} could be compared with",
                why=", ".join(d.name for d in info.point.disks),
                do="name one with --disk",
            )
        with ImageSource.open(real, matching[0].chunk_size) as source:
            extents = diff_engine.join(
                diff_engine.with_image(self._store, self._keys, self._shelf, matching[0], source, monitor)
            )
            size = max(source.size, matching[0].size)
        return self._diff_result(info.label, path, [(matching[0].name, size, extents)])

    @staticmethod
    def _diff_result(left: str, right: str, parts: list[tuple[str, int, list[tuple[int, int]]]]) -> DiffResult:
        return DiffResult(
            left=left,
            right=right,
            extents=tuple(DiffExtent(name, at, count) for name, _, extents in parts for at, count in extents),
            changed_bytes=sum(count for _, _, extents in parts for _, count in extents),
            size_bytes=sum(size for _, size, _ in parts),
            pictures={name: diff_engine.picture(extents, size) for name, size, extents in parts},
        )

    def verify(self, point: str | None = None, *, quick: bool = False, monitor: Monitor | None = None) -> VerifyReport:
        """Check every byte that a point (None: every point, and the records besides) needs against its identity.

        `quick` checks structure only: records, layers, tables and what binds them, no blocks.
        """
        monitor = monitor or Monitor()
        begun = time.monotonic()
        infos = [self.point(point)] if point is not None else self.points()
        chosen = [(info.label, info.point) for info in infos if info.point is not None]
        if point is not None and not chosen:
            raise NotFoundError(
                "point.not-in-vault",
                f"point {infos[0].label} is only a snapshot",
                why="a snapshot has no identities to be checked against until it is transferred",
                do="run `blockvault transfer` first",
            )
        verifier = Verifier(self._store, self._keys, self._shelf, self._catalog, monitor)
        found = verifier.run(chosen, quick=quick, everything=point is None)
        return VerifyReport(
            quick=quick,
            points=len(chosen),
            blocks=found.blocks,
            plain_bytes=found.plain_bytes,
            stored_bytes=found.stored_bytes,
            damage=tuple(found.damage),
            seconds=time.monotonic() - begun,
            warnings=tuple(warning.message for warning in monitor.warnings),
        )

    def usage(self, *, by: str = "item") -> UsageReport:
        """Where the space goes, by `item` or by `tier`."""
        if by not in ("item", "tier"):
            raise InvalidInputError("usage.by", f"usage cannot be shown by '{by}'", do="use --by item or --by tier")
        snapshot_bytes = {record.number: self._tier.bytes_used(record) for record in self._tier.records()}
        return measure(self.name, self.path, self.points(), snapshot_bytes, by=by)
