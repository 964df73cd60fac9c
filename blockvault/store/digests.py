"""Digest state (R5): 16 bytes a chunk that say what a disk held, so that the next scan finds what changed.

It is the only thing that can make churn invisible, so it is refused rather than doubted: a head names the
record that it describes, by digest, and whoever opens it says which record is meant. It lies in the host's
state, one folder a disk, and serves two roles: `snapshot` (the newest snapshot's digests) and `point` (the
newest transferred point's).

    <folder>/snapshot.head, point.head      which cell lies in which file, and the checksum of each
    <folder>/<random>.cells                 one generation: the cells that changed then, back to back

Invariants:
- A head is replaced whole (write, sync, rename, sync), and only when the cells that it lists are durable.
- A cell is checked when it is read: a flipped or swapped byte is `digests.damaged`, never an answer.
- An absent cell is all zeros; an all-zero digest means "reads as zeros" and is never computed.
- A cells file is removed when no head lists it and nobody has it open: whoever reads or writes one holds a
  shared lock on it, and heads change under the folder's exclusive lock.

A head file: 8 bytes `BVDIGST1`, u32 length of the description, the description (JSON), the entries
(`ENTRY`, little-endian), 16 bytes BLAKE3 of all before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import blake3
import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from blockvault.errors import CorruptionError, InternalError
from blockvault.failpoints import reach
from blockvault.model.geometry import cell_bounds, cell_count, chunk_count
from blockvault.store.local import device_error, make_folders, read_at, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

U8 = NDArray[np.uint8]

ROLES = ("snapshot", "point")
DIGEST_BYTES = 16
FILES_MAX = 16

_MAGIC = b"BVDIGST1"
_CHECK_BYTES = 16
ENTRY = np.dtype(
    [
        ("cell", "<u4"),
        ("count", "<u4"),  # chunks that hold; what lies after them in the cell reads as zeros
        ("stored_count", "<u4"),  # chunks in the file
        ("file", "<u4"),  # in the head's list of files
        ("offset", "<u8"),
        ("check", "V16"),
    ]
)


@dataclass(frozen=True, slots=True)
class _Entry:
    count: int
    stored_count: int
    file: str
    offset: int
    check: bytes


class _Description(msgspec.Struct, frozen=True):
    vault_id: str
    record_digest: str
    disk: str
    size: int
    chunk_size: int
    seed_check: str
    files: list[str]
    entry_count: int


def _seed_check(vault_id: str, seed: int) -> str:
    """Tells two seeds apart without giving either away."""
    hasher = blake3.blake3(derive_key_context="blockvault digest state seed check 1")
    hasher.update(vault_id.encode() + b"\0" + seed.to_bytes(8, "little"))
    return hasher.hexdigest(length=8)


def _cell_check(cell: int, data: bytes | memoryview) -> bytes:
    return xxhash.xxh3_128(data, cell).digest()


class DigestState:
    """The digests of one disk at one record; immutable, safe to read while newer ones are made."""

    def __init__(self, folder: str, description: _Description, entries: dict[int, _Entry], fds: dict[str, int]) -> None:
        self.folder = folder
        self.size = description.size
        self.chunk_size = description.chunk_size
        self.entries = entries
        self.fds = fds
        self._finalizer = weakref.finalize(self, _close_all, fds)

    @classmethod
    def open(
        cls,
        folder: str,
        role: str,
        *,
        vault_id: str,
        record_digest: bytes,
        disk: str,
        size: int | None,
        chunk_size: int,
        seed: int,
    ) -> DigestState | None:
        """The state of `role`, or None if it is missing, torn, or not that of what is named here."""
        fds: dict[str, int] = {}
        try:
            with _folder_lock(folder, fcntl.LOCK_SH):
                head = _read_head(_head_path(folder, role))
                if head is None:
                    return None
                told, entries = head
                if (
                    told.vault_id != vault_id
                    or told.record_digest != record_digest.hex()
                    or told.disk != disk
                    or (size is not None and told.size != size)
                    or told.chunk_size != chunk_size
                    or told.seed_check != _seed_check(vault_id, seed)
                ):
                    return None
                for name in told.files:
                    fds[name] = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
                    fcntl.flock(fds[name], fcntl.LOCK_SH)
            lengths = {name: os.fstat(fd).st_size for name, fd in fds.items()}
        except OSError:
            _close_all(fds)
            return None
        for entry in entries.values():
            if entry.offset + entry.stored_count * DIGEST_BYTES > lengths[entry.file]:
                _close_all(fds)
                return None
        return cls(folder, told, entries, fds)

    def cell(self, index: int, count: int) -> U8:
        """The digests of the first `count` chunks of a cell, shape (count, 16); what is not stated is zeros.

        Raises:
            CorruptionError: `digests.damaged`; the caller goes on as if the state had been refused.
        """
        found = np.zeros((count, DIGEST_BYTES), np.uint8)
        entry = self.entries.get(index)
        if entry is not None:
            known = min(count, entry.count)
            data = _read_cell(self.fds[entry.file], self.folder, index, entry)
            stored = np.frombuffer(data, np.uint8).reshape(-1, DIGEST_BYTES)
            found[:known] = stored[:known]
        return found

    def stated_cells(self) -> list[int]:
        """The cells that hold any digest but zeros, in order."""
        return sorted(self.entries)

    def close(self) -> None:
        """Let go of the files; safe to call again."""
        self._finalizer()


class DigestWriter:
    """The next digest state of a disk, made from `base` and the cells that are `put`.

    A cell that is not put is taken over from the base by reference, clipped to the new size. The order is
    `put`..., `finish` (durable), then `switch` under one role or both once the record is durable; or `abort`.
    """

    def __init__(
        self,
        folder: str,
        *,
        vault_id: str,
        disk: str,
        size: int,
        chunk_size: int,
        seed: int,
        base: DigestState | None,
    ) -> None:
        if base is not None and (os.path.realpath(base.folder), base.chunk_size) != (
            os.path.realpath(folder),
            chunk_size,
        ):
            raise InternalError("internal.digests", "a digest state was to be built on that of another disk")
        self._folder = folder
        self._told = _Description(
            vault_id, "", disk, size, chunk_size, _seed_check(vault_id, seed), files=[], entry_count=0
        )
        self._chunks = chunk_count(size, chunk_size)
        self._fds: dict[str, int] = {}
        self._entries: dict[int, _Entry] = {}
        if base is not None:
            for cell, entry in base.entries.items():
                count = min(entry.count, cell_bounds(cell, self._chunks)[1])
                if count > 0:
                    self._entries[cell] = replace(entry, count=count)
            # A duplicate shares the lock of the original: the base may be closed, its files stay.
            self._fds = {name: os.dup(fd) for name, fd in base.fds.items()}
        self._file: str | None = None
        self._length = 0
        self._switched = False
        self._finalizer = weakref.finalize(self, _close_all, self._fds)

    def put(self, index: int, digests: U8) -> None:
        """Say what a cell holds: shape (count, 16) from its first chunk on; the rest of it is zeros."""
        count = cell_bounds(index, self._chunks)[1]
        if digests.shape != (min(count, len(digests)), DIGEST_BYTES) or digests.dtype != np.uint8:
            raise InternalError("internal.digests", f"cell {index} cannot hold digests of {digests.shape}")
        stated = np.flatnonzero(digests.any(axis=1))
        if not len(stated):
            self._entries.pop(index, None)
            return
        length = int(stated[-1]) + 1
        data = np.ascontiguousarray(digests[:length]).tobytes()
        known = self._entries.get(index)
        if known is not None and known.stored_count == length and known.check == _cell_check(index, data):
            with contextlib.suppress(CorruptionError):  # told again, a damaged cell is mended
                _read_cell(self._fds[known.file], self._folder, index, known)
                self._entries[index] = replace(known, count=length)
                return
        self._append(index, length, data)

    def _append(self, index: int, count: int, data: bytes) -> None:
        try:
            if self._file is None:
                self._create()
            assert self._file is not None
            reach("digests.cell")
            written = 0
            while written < len(data):
                written += os.pwrite(self._fds[self._file], data[written:], self._length + written)
        except OSError as error:
            raise device_error(error, f"writing the digests of disk '{self._told.disk}'") from error
        self._entries[index] = _Entry(count, count, self._file, self._length, _cell_check(index, data))
        self._length += len(data)

    def _create(self) -> None:
        make_folders("/", os.path.abspath(self._folder).lstrip("/"))
        name = f"{os.urandom(8).hex()}.cells"
        with _folder_lock(self._folder, fcntl.LOCK_SH):  # nobody tidies between the making and the lock
            fd = os.open(os.path.join(self._folder, name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._fds[name] = fd
            fcntl.flock(fd, fcntl.LOCK_SH)
        self._file = name

    def finish(self) -> None:
        """Make all cells durable; nothing is visible yet."""
        self._gather()
        if self._file is None:
            return
        try:
            reach("digests.sync")
            os.fsync(self._fds[self._file])
            sync_folder(self._folder)
        except OSError as error:
            raise device_error(error, f"writing the digests of disk '{self._told.disk}'") from error

    def _gather(self) -> None:
        """Take cells out of files that are less than half alive, and out of the smallest when files are many."""
        live: dict[str, int] = {}
        for entry in self._entries.values():
            live[entry.file] = live.get(entry.file, 0) + entry.stored_count * DIGEST_BYTES
        old = [name for name in live if name != self._file]
        chosen = {name for name in old if 2 * live[name] < os.fstat(self._fds[name]).st_size}
        kept = sorted((name for name in old if name not in chosen), key=lambda name: live[name])
        if len(kept) >= FILES_MAX:
            chosen.update(kept[: len(kept) - FILES_MAX // 2])
        for cell, entry in sorted(self._entries.items()):
            if entry.file in chosen:
                # A damaged cell stays where it is: whoever reads it next is told, here it must not be hidden.
                with contextlib.suppress(CorruptionError):
                    data = _read_cell(self._fds[entry.file], self._folder, cell, entry)
                    self._append(cell, entry.count, data[: entry.count * DIGEST_BYTES])

    def switch(self, role: str, record_digest: bytes) -> None:
        """Make this the state of `role`, for the record of that digest; drop files that nobody needs."""
        path = _head_path(self._folder, role)
        temporary = f"{path}.{os.urandom(6).hex()}.tmp"
        try:
            make_folders("/", os.path.abspath(self._folder).lstrip("/"))
            with _folder_lock(self._folder, fcntl.LOCK_EX):
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    data = memoryview(self._head(record_digest))
                    while data:
                        data = data[os.write(fd, data) :]
                    os.fsync(fd)
                finally:
                    os.close(fd)
                reach("digests.head")
                os.rename(temporary, path)
                self._switched = True
                sync_folder(self._folder)
                reach("digests.switched")
                with contextlib.suppress(OSError):  # tidied with the next one then
                    _tidy(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise device_error(error, f"writing the digests of disk '{self._told.disk}'") from error

    def _head(self, record_digest: bytes) -> bytes:
        files = sorted({entry.file for entry in self._entries.values()})
        number = {name: index for index, name in enumerate(files)}
        table = np.zeros(len(self._entries), ENTRY)
        for row, (cell, entry) in enumerate(sorted(self._entries.items())):
            table[row] = (
                cell,
                entry.count,
                entry.stored_count,
                number[entry.file],
                entry.offset,
                entry.check,
            )
        told = msgspec.structs.replace(
            self._told, record_digest=record_digest.hex(), files=files, entry_count=len(table)
        )
        text = msgspec.json.encode(told)
        data = _MAGIC + len(text).to_bytes(4, "little") + text + table.tobytes()
        return data + blake3.blake3(data).digest(length=_CHECK_BYTES)

    def close(self) -> None:
        """Let go of the files; what was not switched to is removed. Safe to call again."""
        if self._finalizer.alive and self._file is not None and not self._switched:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, self._file))
        self._finalizer()

    abort = close


# -- heads and files ----------------------------------------------------------------------------------------


def _head_path(folder: str, role: str) -> str:
    if role not in ROLES:
        raise InternalError("internal.digests", f"there is no digest state of role '{role}'")
    return os.path.join(folder, f"{role}.head")


def _read_head(path: str) -> tuple[_Description, dict[int, _Entry]] | None:
    """A head, or None if it is missing or not whole."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if not body.startswith(_MAGIC) or blake3.blake3(body).digest(length=_CHECK_BYTES) != check:
        return None
    start = len(_MAGIC) + 4
    stop = start + int.from_bytes(body[len(_MAGIC) : start], "little")
    try:
        told = msgspec.json.decode(body[start:stop], type=_Description)
        table = np.frombuffer(body[stop:], ENTRY)
        cells = cell_count(chunk_count(told.size, told.chunk_size))
        entries = {
            int(row["cell"]): _Entry(
                int(row["count"]),
                int(row["stored_count"]),
                told.files[int(row["file"])],
                int(row["offset"]),
                row["check"].tobytes(),
            )
            for row in table
        }
    except (msgspec.MsgspecError, ValueError, IndexError, ZeroDivisionError):
        return None
    if len(entries) != told.entry_count or any(cell >= cells for cell in entries):
        return None
    return told, entries


def _tidy(folder: str) -> None:
    """Remove what no head lists and nobody holds open. Only under the folder's exclusive lock."""
    listed: set[str] = set()
    for role in ROLES:
        head = _read_head(_head_path(folder, role))
        if head is not None:
            listed.update(head[0].files)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.endswith(".tmp"):
            os.unlink(path)
        elif name.endswith(".cells") and name not in listed:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            except BlockingIOError:
                pass  # being read, or not switched to yet
            finally:
                os.close(fd)


@contextlib.contextmanager
def _folder_lock(folder: str, kind: int) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)


def _read_cell(fd: int, folder: str, index: int, entry: _Entry) -> bytes:
    length = entry.stored_count * DIGEST_BYTES
    try:
        data = read_at(fd, length, entry.offset)
    except OSError as error:
        raise _damaged(folder, index, str(error.strerror)) from error
    if len(data) != length or _cell_check(index, data) != entry.check:
        raise _damaged(folder, index, "its bytes are not those that were written")
    return data


def _damaged(folder: str, index: int, why: str) -> CorruptionError:
    return CorruptionError(
        "digests.damaged",
        f"cell {index} of the digest state in {folder} is damaged",
        why=why,
        do="nothing: the next job compares by identity instead and writes it anew",
    )


def _close_all(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)
    fds.clear()
