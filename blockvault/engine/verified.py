"""When each block was last verified: the host's memory, so that a run with a budget goes on where the last one stopped.

One entry a pack that points need: which of its slots were verified, and when. The moment stands for all of them, so
it is never later than the truth. It lies in the host's state, `verified`, and is bound to the vault's id, to the
folder's identity and to each pack's generation: of a vault that was copied to another disk, or of a pack that was
written anew, nothing is known. Losing it costs reading again, never a wrong answer; what does not check is as if lost.

    line of JSON: vault, identity, counted (moment of the last run over all points), packs
    a zstd frame: entries of 52 bytes (`_ENTRY`), then each one's slots as bits; then 32 bytes BLAKE3 of all before

Bounded by the packs that points need: entries of others are dropped by every run over all points.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import blake3
import numpy as np
import zstandard
from numpy.typing import NDArray

from blockvault.clock import from_text, to_text
from blockvault.engine.session import Session
from blockvault.errors import BlockVaultError
from blockvault.ids import PackName
from blockvault.model import VerifyCoverage
from blockvault.store.host import HostState, folder_identity
from blockvault.store.local import replace_file

FILE = "verified"
PLAIN_MAX = 1 << 30
_ENTRY = struct.Struct("<16s4sIQIQQ")  # pack, generation's suffix, slots, at, zero, needed bytes, verified bytes


Needed = tuple[bytes, NDArray[np.bool_], NDArray[np.uint32]]  # generation's suffix, slots, stored length of each


@dataclass(frozen=True, slots=True)
class Entry:
    """One pack. `at` is seconds since 1970, 0: never verified."""

    generation: bytes  # the random suffix of the generation that was read
    at: int
    needed_bytes: int  # stored bytes of the slots that points need, as of the last run over all points
    verified_bytes: int  # of those, what `slots` covers
    slots: NDArray[np.bool_]


class VerifiedState:
    """Loaded at the beginning of a run, changed pack by pack, saved at its end and now and then."""

    def __init__(self, host: HostState, identity: str) -> None:
        self._host = host
        self._identity = identity
        self.entries: dict[PackName, Entry] = {}
        self.counted: datetime | None = None
        self._changed: set[PackName] = set()
        self._load()

    @property
    def path(self) -> str:
        """The file."""
        return os.path.join(self._host.folder, FILE)

    def _load(self) -> None:
        self.entries, self.counted = {}, None
        try:
            with open(self.path, "rb") as file:
                data = file.read(PLAIN_MAX)
        except OSError:
            return
        try:
            if blake3.blake3(data[:-32]).digest() != data[-32:]:
                return
            line, _, frame = data[:-32].partition(b"\n")
            head = json.loads(line)
            if head["vault"] != self._host.vault_id or head["identity"] != self._identity:
                return
            if not 0 <= zstandard.frame_content_size(frame) <= PLAIN_MAX:
                return
            plain = zstandard.ZstdDecompressor().decompress(frame, max_output_size=PLAIN_MAX)
            self._read(plain, int(head["packs"]))
            self.counted = from_text(head["counted"]) if head["counted"] else None
        except (ValueError, KeyError, TypeError, struct.error, zstandard.ZstdError, BlockVaultError):
            self.entries, self.counted = {}, None

    def _read(self, plain: bytes, count: int) -> None:
        bits_at = count * _ENTRY.size
        for index in range(count):
            pack, generation, slots, at, _, needed, verified = _ENTRY.unpack_from(plain, index * _ENTRY.size)
            size = -(-slots // 8)
            bits = np.frombuffer(plain, dtype=np.uint8, count=size, offset=bits_at)
            bits_at += size
            mask = np.unpackbits(bits, count=slots).astype(np.bool_)
            self.entries[PackName(pack)] = Entry(generation, at, needed, verified, mask)

    def order(self, packs: dict[PackName, tuple[bytes, NDArray[np.bool_]]]) -> list[PackName]:
        """Packs as they are to be verified: those with a slot that never was first, then the least recently verified.

        Args:
            packs: for each the suffix of its generation and the slots that points need.
        """

        def key(pack: PackName) -> tuple[int, bytes]:
            entry = self.entries.get(pack)
            generation, needed = packs[pack]
            if entry is None or entry.generation != generation or len(entry.slots) != len(needed):
                return 0, pack
            return (0 if bool((needed & ~entry.slots).any()) else entry.at), pack

        return sorted(packs, key=key)

    def expect(self, needed: dict[PackName, Needed], now: datetime) -> None:
        """A run over all points begins: what they need, by pack."""
        fresh: dict[PackName, Entry] = {}
        for pack, (generation, slots, lengths) in needed.items():
            entry = self.entries.get(pack)
            if entry is None or entry.generation != generation or len(entry.slots) != len(slots):
                entry = Entry(generation, 0, 0, 0, np.zeros(len(slots), dtype=np.bool_))
            fresh[pack] = replace(
                entry,
                needed_bytes=_bytes(lengths, slots),
                verified_bytes=_bytes(lengths, slots & entry.slots) if entry.at else 0,
            )
        self._changed |= fresh.keys() | self.entries.keys()
        self.entries = fresh
        self.counted = now

    def verified(
        self,
        pack: PackName,
        generation: bytes,
        slots: NDArray[np.bool_],
        lengths: NDArray[np.uint32],
        *,
        now: datetime,
        all_needed: bool,
    ) -> None:
        """These slots of a pack were read and compared; `all_needed`: they are all that points need of it."""
        at = int(now.timestamp())
        entry = self.entries.get(pack)
        known = entry is not None and entry.generation == generation and len(entry.slots) == len(slots) and entry.at
        needed_bytes = _bytes(lengths, slots)
        if known and entry is not None and not all_needed and bool((entry.slots & ~slots).any()):
            at, slots = min(entry.at, at), entry.slots | slots  # one moment for all: the earlier one
        if entry is not None:
            needed_bytes = max(needed_bytes, entry.needed_bytes) if not all_needed else needed_bytes
        verified = min(_bytes(lengths, slots), needed_bytes)
        self.entries[pack] = Entry(generation, at, needed_bytes, verified, slots)
        self._changed.add(pack)

    def save(self) -> None:
        """Write it, with what other runs of this host have noted meanwhile."""
        mine, counted, changed = self.entries, self.counted, self._changed
        lock = self._host.lock("verified", kind="host.locked", subject="the host's state is in use", wait_seconds=30)
        with lock:
            self._load()
            for pack in changed:
                ours, theirs = mine.get(pack), self.entries.get(pack)
                if ours is None:
                    self.entries.pop(pack, None)
                elif theirs is None or theirs.generation != ours.generation or theirs.at <= ours.at:
                    self.entries[pack] = ours
            self.counted = max(filter(None, (counted, self.counted)), default=None)
            head = {
                "vault": self._host.vault_id,
                "identity": self._identity,
                "counted": to_text(self.counted) if self.counted else None,
                "packs": len(self.entries),
            }
            entries = sorted(self.entries.items())
            plain = b"".join(
                _ENTRY.pack(pack, e.generation, len(e.slots), e.at, 0, e.needed_bytes, e.verified_bytes)
                for pack, e in entries
            ) + b"".join(np.packbits(e.slots).tobytes() for _, e in entries)
            data = json.dumps(head).encode() + b"\n" + zstandard.ZstdCompressor(level=3).compress(plain)
            replace_file(self.path, data + blake3.blake3(data).digest())
        self._changed = set()

    def coverage(self, now: datetime, days: int) -> VerifyCoverage:
        """How much of what points need was verified of late."""
        edge = int((now - timedelta(days=days)).timestamp())
        entries = list(self.entries.values())
        dates = [entry.at for entry in entries if entry.at and entry.verified_bytes]
        return VerifyCoverage(
            days=days,
            needed_bytes=sum(entry.needed_bytes for entry in entries),
            verified_bytes=sum(entry.verified_bytes for entry in entries if entry.at > edge),
            never_bytes=sum(entry.needed_bytes - entry.verified_bytes for entry in entries),
            oldest=datetime.fromtimestamp(min(dates), UTC) if dates else None,
            newest=datetime.fromtimestamp(max(dates), UTC) if dates else None,
            counted=self.counted,
        )


def verified_state(session: Session) -> VerifiedState:
    """The memory of this host for an opened vault."""
    return VerifiedState(session.host, folder_identity(os.path.join(session.path, "vault.json")))


def _bytes(lengths: NDArray[np.uint32], slots: NDArray[np.bool_]) -> int:
    return int(lengths[slots].sum(dtype=np.int64))
