"""Packs: writing blocks in order, and finding and opening them again.

Invariants:
- A pack's name is drawn once; its generations are `<pack>.<number>-<random>`; a slot keeps its number in all.
- A pack appears in the vault whole and durable (`NewObject.commit`); only then may a layer or the index name it.
- A reader takes a slot from any generation that has it, the highest first.

Memory: tables are cached up to a bound in bytes; open descriptors up to a bound in number, which follows the limit of
the process (`ulimit -n`).
"""

from __future__ import annotations

import errno
import os
import re
import resource
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockvault import kernel
from blockvault.errors import BlockVaultError, CorruptionError, DeviceError, NotFoundError
from blockvault.failpoints import reach
from blockvault.format.envelope import (
    DIRECTORY_NUMBER,
    DIRECTORY_PLAIN_MAX,
    FOOTER_BYTES,
    HEAD_BYTES,
    NAMES_RATIO_MAX,
    TAG_BYTES,
    Kind,
    Sealer,
    damaged,
    directory_range,
    footer,
    new_sealer,
    open_sealer,
    pack_frame,
    unpack_frame,
)
from blockvault.format.tables import NO_BASE, PackTable, decode_table, encode_table
from blockvault.ids import PackName, ordered_name
from blockvault.model import Codec, VaultKeys
from blockvault.page_cache import let_go
from blockvault.store.local import LocalStore, NewObject, device_error, read_at

PACK_BYTES = 48 << 20
PACKS_FOLDER = "main/packs"
TABLE_CACHE_BYTES = 32 << 20
OPEN_PACKS_MAX = 64  # kept open though nobody uses them
OTHER_FILES = (
    40  # descriptors that everything else needs: layers, digest states, LMDB, the image, the pack being written
)
WAIT_SECONDS = 5.0  # for a descriptor that another thread gives back
_GENERATION = re.compile(r"^([0-9a-f]{32})\.(\d+)-[0-9a-f]{8}\Z")


def generation_of(name: str) -> int:
    """The number of a generation, from its object's name."""
    return int(name.rsplit(".", 1)[1].split("-", maxsplit=1)[0])


def pack_folder(pack: PackName) -> str:
    """The folder of a pack: its last two hexadecimal digits, which are random."""
    return f"{PACKS_FOLDER}/{pack.hex()[-2:]}"


@dataclass(slots=True)
class _Columns:
    ids: list[NDArray[np.uint8]] = field(default_factory=list)
    lengths: list[NDArray[np.uint32]] = field(default_factory=list)
    codecs: list[NDArray[np.uint8]] = field(default_factory=list)
    depths: list[NDArray[np.uint8]] = field(default_factory=list)
    base_pack: list[NDArray[np.uint32]] = field(default_factory=list)
    base_slot: list[NDArray[np.uint32]] = field(default_factory=list)


class PackWriter:
    """One pack being written. Use from one thread; `seal` may run on another once appending has ended."""

    def __init__(self, store: LocalStore, keys: VaultKeys, *, unix_ms: int, chunk_size: int) -> None:
        self.pack = PackName(ordered_name(unix_ms))
        self.name = f"{pack_folder(self.pack)}/{self.pack.hex()}.0-{os.urandom(4).hex()}"
        self.slot_count = 0
        self._chunk_size = chunk_size
        self._sealer: Sealer = new_sealer(keys, Kind.PACK, self.name)
        self._object: NewObject = store.new_object(self.name)
        self._object.write(self._sealer.head)
        self._columns = _Columns()
        self._base_packs: dict[PackName, int] = {}

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._object.size

    def append(
        self,
        blocks: kernel.BlockBatch,
        ids: NDArray[np.uint8],
        bases: list[tuple[PackName, int, int] | None],
    ) -> int:
        """Append a batch; returns the slot of its first block.

        Args:
            blocks: payload, offsets and codecs of m blocks.
            ids: (m, 32).
            bases: for each block its base's pack, slot and depth, or None.
        """
        codecs = np.asarray(blocks.codecs)
        first = self.slot_count
        if self._sealer.encrypted:
            blocks = kernel.encrypt(
                blocks.payload,
                blocks.offsets,
                key=self._sealer.key,
                associated=self._sealer.associated,
                first_slot=first,
            )
        count = len(codecs)
        base_pack = np.full(count, NO_BASE, dtype=np.uint32)
        base_slot = np.zeros(count, dtype=np.uint32)
        depths = np.zeros(count, dtype=np.uint8)
        for row in np.flatnonzero(codecs == Codec.DELTA).tolist():
            base = bases[row]
            assert base is not None
            base_pack[row] = self._base_packs.setdefault(base[0], len(self._base_packs))
            base_slot[row] = base[1]
            depths[row] = base[2] + 1
        self._object.write(blocks.payload)
        columns = self._columns
        columns.ids.append(np.asarray(ids))
        columns.lengths.append(np.diff(np.asarray(blocks.offsets)).astype(np.uint32))
        columns.codecs.append(codecs)
        columns.depths.append(depths)
        columns.base_pack.append(base_pack)
        columns.base_slot.append(base_slot)
        self.slot_count += count
        return first

    def seal(self) -> int:
        """Write the table and put the pack in place, durable. Returns the pack's size."""
        reach("pack.seal")
        columns = self._columns
        payload_end = self._object.size
        table = encode_table(
            chunk_size=self._chunk_size,
            generation=0,
            base_packs=list(self._base_packs),
            ids=np.concatenate(columns.ids),
            lengths=np.concatenate(columns.lengths),
            codecs=np.concatenate(columns.codecs),
            depths=np.concatenate(columns.depths),
            base_pack=np.concatenate(columns.base_pack),
            base_slot=np.concatenate(columns.base_slot),
        )
        stored = self._sealer.seal(DIRECTORY_NUMBER, pack_frame(table))
        self._object.write(stored)
        self._object.write(footer(payload_end, len(stored)))
        self._object.commit()
        return self._object.size

    def abort(self) -> None:
        """Leave nothing behind."""
        self._object.abort()


def open_packs_allowed() -> int:
    """How many packs this process may have open at once, cached ones and those in use."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 1 << 20
    return max(8, limit - max(OTHER_FILES, limit // 4))


class PackReader:
    """One generation of a pack, open for reading. `fd` is valid until `close`."""

    def __init__(self, fd: int, name: str, sealer: Sealer, table: PackTable) -> None:
        open_readers.add(self)
        self.fd = fd
        self.name = name
        self.table = table
        self._sealer = sealer

    @property
    def handle(self) -> tuple[int, bytes | None, bytes]:
        """What `kernel.decode` takes: descriptor, key if encrypted, associated data."""
        return self.fd, self._sealer.key if self._sealer.encrypted else None, self._sealer.associated

    def unseal(self, slot: int, stored: bytes) -> bytes:
        """A block's stored bytes without their encryption, if there is one. Raises `CorruptionError`."""
        return self._sealer.unseal(slot, stored) if self._sealer.encrypted else stored

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


open_readers: weakref.WeakSet[PackReader] = weakref.WeakSet()  # of the process


def read_table(store: LocalStore, keys: VaultKeys, name: str) -> PackReader:
    """Open one generation and read its table.

    Raises:
        NotFoundError: there is no such object.
        CorruptionError: it is damaged (`vault.object-damaged`).
    """
    fd = store.open(name)
    try:
        size = os.fstat(fd).st_size
        tail = read_at(fd, FOOTER_BYTES, max(0, size - FOOTER_BYTES))
        offset, length = directory_range(name, size, tail)
        sealer = open_sealer(keys, Kind.PACK, name, read_at(fd, HEAD_BYTES, 0))
        frame = sealer.unseal(DIRECTORY_NUMBER, read_at(fd, length, offset))
        plain = unpack_frame(name, frame, DIRECTORY_PLAIN_MAX, ratio=NAMES_RATIO_MAX)
        table = decode_table(name, plain, offset)
        shortest = TAG_BYTES if sealer.encrypted else 1
        if bool(((table.lengths < shortest) & (table.codecs != Codec.EMPTY)).any()):
            raise damaged(name, "its table has blocks that are too short")
        return PackReader(fd, name, sealer, table)
    except BlockVaultError:
        os.close(fd)
        raise
    except OSError as error:
        os.close(fd)
        raise device_error(error, f"reading {name} of the vault") from error


def generations(store: LocalStore, pack: PackName) -> list[str]:
    """Object names of a pack's generations as they lie in the vault now, newest first."""
    folder = pack_folder(pack)
    names = [f"{folder}/{entry}" for entry in store.entries(folder) if _GENERATION.match(entry)]
    return sorted((name for name in names if pack.hex() in name), key=generation_of, reverse=True)


class PackShelf:
    """Finds and opens packs; safe to use from several threads.

    Readers handed out stay valid while the caller holds them: a reader dropped from the cache closes its descriptor
    only when the last holder lets go.
    """

    def __init__(self, store: LocalStore, keys: VaultKeys) -> None:
        self._store = store
        self._keys = keys
        self._lock = threading.Lock()
        self._names: dict[str, dict[PackName, list[str]]] = {}
        self._readers: OrderedDict[PackName, PackReader] = OrderedDict()
        self._bytes = 0
        self.damage: dict[str, str] = {}  # object name -> reason, as met so far

    def _list_folder(self, folder: str) -> dict[PackName, list[str]]:
        found: dict[PackName, list[tuple[int, str]]] = {}
        for entry in self._store.entries(folder):
            match = _GENERATION.match(entry)
            if match:
                found.setdefault(PackName(bytes.fromhex(match[1])), []).append((int(match[2]), f"{folder}/{entry}"))
        return {pack: [name for _, name in sorted(names, reverse=True)] for pack, names in found.items()}

    def names(self, pack: PackName, *, refresh: bool = False) -> list[str]:
        """Object names of a pack's generations, newest first; empty if there is none."""
        folder = pack_folder(pack)
        with self._lock:
            listing = self._names.get(folder)
        if listing is None or refresh or pack not in listing:
            listing = self._list_folder(folder)
            with self._lock:
                self._names[folder] = listing
        return listing.get(pack, [])

    def all_packs(self) -> list[tuple[PackName, list[str]]]:
        """Every pack of the vault with its generations, in order of name."""
        packs: list[tuple[PackName, list[str]]] = []
        for entry in self._store.entries(PACKS_FOLDER):
            if re.fullmatch(r"[0-9a-f]{2}", entry):
                packs.extend(self._list_folder(f"{PACKS_FOLDER}/{entry}").items())
        return sorted(packs)

    def reader(self, pack: PackName) -> PackReader:
        """The pack's newest generation that opens.

        Raises:
            CorruptionError: it is missing (`vault.pack-missing`) or none of its generations is whole.
        """
        reader = self._cached(pack)
        if reader is not None:
            return reader
        self._make_room()
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return self._open(pack)
            except DeviceError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or time.monotonic() > deadline:
                    raise
            with self._lock:
                self._forget(0)
            time.sleep(0.01)

    def spare_reader(self, pack: PackName) -> PackReader | None:
        """`reader`, for whoever holds others and can do with these: None where the limit of open files is near."""
        return self._cached(pack) or (self.reader(pack) if self._make_room() else None)

    def let_go(self, pack: PackName) -> None:
        """A pack was read from end to end: it need not stay in the page cache where memory is scarce."""
        reader = self._cached(pack)
        if reader is not None:
            let_go(reader.fd)

    def _cached(self, pack: PackName) -> PackReader | None:
        with self._lock:
            reader = self._readers.get(pack)
            if reader is not None:
                self._readers.move_to_end(pack)
            return reader

    def _make_room(self) -> bool:
        """Let go of packs that nobody uses if too many are open; says whether one more may be opened."""
        allowed = open_packs_allowed()
        if len(open_readers) >= allowed:
            with self._lock:
                self._forget(allowed // 4)
        return len(open_readers) < allowed

    def _forget(self, kept: int) -> None:
        while len(self._readers) > kept:
            _, dropped = self._readers.popitem(last=False)
            self._bytes -= dropped.table.memory_bytes

    def _open(self, pack: PackName) -> PackReader:
        last: CorruptionError | None = None
        names = self.names(pack)
        tried: set[str] = set()
        while names:
            name, *names = names
            tried.add(name)
            try:
                reader = read_table(self._store, self._keys, name)
            except NotFoundError:
                # Reclaim has put a newer generation in its place since the folder was listed.
                names = [other for other in self.names(pack, refresh=True) if other not in tried]
                continue
            except CorruptionError as error:
                self.damage[name] = error.why or error.message
                last = error
                continue
            with self._lock:
                known = self._readers.get(pack)
                if known is not None:
                    return known  # another thread was first
                self._readers[pack] = reader
                self._bytes += reader.table.memory_bytes
                self._forget(OPEN_PACKS_MAX)
                while len(self._readers) > 1 and self._bytes > TABLE_CACHE_BYTES:
                    self._forget(len(self._readers) - 1)
            return reader
        if last is not None:
            raise last
        name = f"{pack_folder(pack)}/{pack.hex()}"
        self.damage[name] = "the pack is missing"
        raise CorruptionError(
            "vault.pack-missing",
            f"the vault's pack {name} is missing",
            why="a point refers to it but no such object is there",
            do="put it back from a copy of the vault, or run `blockvault verify` to see what it touches",
        )

    def newest_reader(self, pack: PackName) -> PackReader:
        """`reader`, but of what lies in the vault now: one that was opened before a newer generation came is let go."""
        names = self.names(pack, refresh=True)
        with self._lock:
            reader = self._readers.get(pack)
            if reader is not None and reader.name != next(iter(names), None):
                del self._readers[pack]
                self._bytes -= reader.table.memory_bytes
        return self.reader(pack)

    def refresh(self) -> None:
        """Forget what was listed and opened: reclaim may have deleted or rewritten it since."""
        with self._lock:
            self._names.clear()
            self._forget(0)

    def close(self) -> None:
        """Forget all readers."""
        self.refresh()


def block_columns(reader: PackReader, slots: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Offsets, lengths, codecs and ids of slots, as `kernel.decode` takes them."""
    table = reader.table
    return table.offsets[slots], table.lengths[slots], table.codecs[slots], table.ids[slots]
