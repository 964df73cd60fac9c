"""The envelope around every object of a vault: head, sections, directory, footer.

    head (64 B) | section 0 | section 1 | ... | directory | footer (24 B)

A section is *sealed*: followed by a 16-byte tag that binds its bytes to the vault, to the object's kind and full
name, to the object's salt and to the section's number. With encryption the section is AES-256-GCM under a key of
the object's own; without, it is plain and the tag is a keyed BLAKE3 under that same key. So a section that was
flipped, truncated, swapped with another or moved to another name never unseals.

Invariants:
- An object is written once. Its salt is 256 random bits, so (key, nonce) never repeats; nothing is appended later.
- The directory's number is reserved (2^64 - 1): no section can pass for it.
- The file ends exactly where the footer says: a truncated or lengthened object is refused before it is read.
- What a frame declares as its plain size is checked before a byte of it is decoded: against what such a section may
  have, and for records, tables and index segments, whose bytes are mostly random, against the frame's own length, so
  that memory follows what really lies in the vault.
"""

from __future__ import annotations

import hmac
import os
import struct
import threading
from dataclasses import dataclass
from enum import StrEnum

import blake3
import zstandard

from blockvault.errors import CorruptionError, InvalidInputError, UnsupportedError
from blockvault.model import VaultKeys

FORMAT_VERSION = 1
HEAD = struct.Struct("<4s4sHBBI32s16s")
HEAD_BYTES = 64
FOOTER = struct.Struct("<QQ8s")
FOOTER_BYTES = 24
FOOTER_MAGIC = b"BVLTTAIL"
MAGIC = b"BVLT"
TAG_BYTES = 16
DIRECTORY_NUMBER = (1 << 64) - 1
DIRECTORY_PLAIN_MAX = 16 << 20
INDEX_PLAIN_MAX = 16 << 20
RECORD_PLAIN_MAX = 1 << 20
OUTLINE_PLAIN_MAX = 4 << 20
FREE_PLAIN_BYTES = 64 << 10  # so much a frame may declare whatever its length
RECORD_RATIO_MAX = 64  # beyond that, so many times its length; a user's comment may repeat itself
NAMES_RATIO_MAX = 8  # tables and index segments: more than half of their bytes are names and ids
CIPHER_TAG = 0
CIPHER_AES_GCM = 1


class Kind(StrEnum):
    """The kinds of object; the value is the second half of the magic."""

    PACK = "PACK"
    LAYER = "LAYR"
    INDEX = "INDX"
    POINT = "PONT"
    MARK = "MARK"
    ITEM = "ITEM"
    POLICY = "PLCY"
    CONFIG = "CONF"
    LEASE = "LEAS"
    ORIGIN = "ORIG"
    CONDEMNED = "COND"
    QUARANTINE = "QUAR"
    OUTLINE = "OUTL"  # never an object: in LMDB alone
    BRIEFS = "BRFS"  # never an object: in LMDB alone


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), one block of 32 bytes."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")


def damaged(name: str, reason: str) -> CorruptionError:
    """The error for an object whose bytes are not what they must be."""
    return CorruptionError(
        "vault.object-damaged",
        f"the vault's object {name} is damaged",
        why=reason,
        do="run `blockvault verify` to see what it touches; points that do not need it restore as before",
    )


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and unseals the sections of one object."""

    name: str
    head: bytes
    key: bytes
    associated: bytes
    encrypted: bool

    def seal(self, number: int, data: bytes) -> bytes:
        """`data` with its tag, encrypted if the vault is. Returns len(data) + 16 bytes."""
        nonce = struct.pack("<IQ", 0, number)
        if self.encrypted:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            return AESGCM(self.key).encrypt(nonce, data, self.associated)
        return data + self._tag(nonce, data)

    def unseal(self, number: int, stored: bytes) -> bytes:
        """The inverse of `seal`. Raises `CorruptionError` (`vault.object-damaged`)."""
        nonce = struct.pack("<IQ", 0, number)
        if len(stored) < TAG_BYTES:
            raise damaged(self.name, "a section is shorter than its tag")
        if self.encrypted:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            try:
                return AESGCM(self.key).decrypt(nonce, stored, self.associated)
            except InvalidTag:
                raise damaged(self.name, "a section's tag does not match its bytes") from None
        data = stored[:-TAG_BYTES]
        if not hmac.compare_digest(self._tag(nonce, data), stored[-TAG_BYTES:]):
            raise damaged(self.name, "a section's tag does not match its bytes")
        return data

    def _tag(self, nonce: bytes, data: bytes) -> bytes:
        hasher = blake3.blake3(key=self.key)
        hasher.update(len(self.associated).to_bytes(8, "little"))
        hasher.update(self.associated)
        hasher.update(nonce)
        hasher.update(data)
        return hasher.digest(length=TAG_BYTES)


def new_sealer(keys: VaultKeys, kind: Kind, name: str, write_id: bytes | None = None) -> Sealer:
    """A sealer for an object that is about to be made under `name`; draws its salt and write id."""
    cipher = CIPHER_AES_GCM if keys.encrypted else CIPHER_TAG
    head = HEAD.pack(
        MAGIC,
        kind.value.encode(),
        FORMAT_VERSION,
        cipher,
        0,
        _epoch_of_new(keys, kind),
        os.urandom(32),
        write_id or os.urandom(16),
    )
    return open_sealer(keys, kind, name, head)


def _epoch_of_new(keys: VaultKeys, kind: Kind) -> int:
    """The config tells which epochs there are, so it must be readable without knowing: it keeps to the first."""
    return 0 if kind is Kind.CONFIG else keys.epoch


def open_sealer(keys: VaultKeys, kind: Kind, name: str, head: bytes) -> Sealer:
    """The sealer of an existing object, from its head.

    Raises:
        CorruptionError: the head is not one of this kind of object.
        UnsupportedError: it was written by a newer version (`vault.newer-format`).
    """
    if len(head) != HEAD_BYTES:
        raise damaged(name, "it is shorter than its head")
    magic, kind_bytes, version, cipher, reserved, epoch, salt, _ = HEAD.unpack(head)
    if magic != MAGIC or kind_bytes != kind.value.encode():
        raise damaged(name, "its head is not that of such an object")
    if version > FORMAT_VERSION:
        raise UnsupportedError(
            "vault.newer-format",
            f"the vault's object {name} has format version {version}",
            why=f"this BlockVault reads versions up to {FORMAT_VERSION}",
            do="use a newer BlockVault for this vault",
        )
    if version != FORMAT_VERSION or reserved != 0 or (cipher == CIPHER_AES_GCM) != keys.encrypted or cipher > 1:
        raise damaged(name, "its head contradicts the vault's header")
    if kind is Kind.CONFIG and epoch != 0:
        raise damaged(name, f"its head names key epoch {epoch}; a config is sealed under the first")
    key = hkdf(keys.data_key(epoch), salt, b"blockvault/1 " + head[:8])
    encoded = name.encode()
    associated = b"blockvault/1\0" + keys.vault_id + head + struct.pack("<H", len(encoded)) + encoded
    return Sealer(name, head, key, associated, keys.encrypted)


def write_id_of(head: bytes) -> bytes:
    """The write id in an object's head: tells one's own create-only write from another's."""
    return head[48:64]


class _Frames(threading.local):
    """What a thread packs and unpacks frames with: making one takes ten times as long as a small frame does."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=3)
        self.decompressor = zstandard.ZstdDecompressor()


_frames = _Frames()


def pack_frame(plain: bytes) -> bytes:
    """A zstd frame that declares its content size."""
    return _frames.compressor.compress(plain)


def plain_limit(frame: bytes, plain_max: int, ratio: int | None) -> int:
    """How many plain bytes a frame of that length may declare."""
    return plain_max if ratio is None else min(plain_max, max(FREE_PLAIN_BYTES, ratio * len(frame)))


def unpack_frame(name: str, frame: bytes, plain_max: int, *, ratio: int | None = None) -> bytes:
    """The inverse of `pack_frame`; refuses what declares no size, or more than `plain_max` and `ratio` allow."""
    try:
        declared = zstandard.frame_content_size(frame)
        if not 0 <= declared <= plain_limit(frame, plain_max, ratio):
            raise damaged(name, f"a section of {len(frame)} bytes declares {declared} plain bytes")
        return _frames.decompressor.decompress(frame, max_output_size=declared or 1)
    except zstandard.ZstdError as error:
        raise damaged(name, f"a section does not decompress: {error}") from None


def footer(directory_offset: int, directory_length: int) -> bytes:
    """The last 24 bytes of an object."""
    return FOOTER.pack(directory_offset, directory_length, FOOTER_MAGIC)


def directory_range(name: str, file_size: int, tail: bytes) -> tuple[int, int]:
    """Offset and stored length of the directory, from the object's last 24 bytes and its size.

    Raises `CorruptionError` when they do not fit each other.
    """
    if file_size < HEAD_BYTES + TAG_BYTES + FOOTER_BYTES or len(tail) != FOOTER_BYTES:
        raise damaged(name, f"it is only {file_size} bytes long")
    offset, length, magic = FOOTER.unpack(tail)
    if magic != FOOTER_MAGIC:
        raise damaged(name, "its footer is not one: the object is truncated or overwritten")
    if offset < HEAD_BYTES or length < TAG_BYTES or offset + length + FOOTER_BYTES != file_size:
        raise damaged(name, "its footer contradicts its size")
    if length > DIRECTORY_PLAIN_MAX:
        raise damaged(name, "its directory is too large")
    return offset, length


def seal_record(
    keys: VaultKeys, kind: Kind, name: str, body: bytes, write_id: bytes | None = None
) -> tuple[bytes, bytes]:
    """A small object that has only a directory. Returns its bytes and the directory's tag (its digest)."""
    sealer = new_sealer(keys, kind, name, write_id)
    frame = pack_frame(body)
    if len(body) > plain_limit(frame, *_limits(kind)):  # what no reader would take is not written
        raise InvalidInputError(
            "input.record-too-large",
            f"the record {name} would have {len(body)} bytes",
            why="comments, tags and paths have to fit into one record",
            do="shorten them",
        )
    stored = sealer.seal(DIRECTORY_NUMBER, frame)
    return sealer.head + stored + footer(HEAD_BYTES, len(stored)), stored[-TAG_BYTES:]


def _limits(kind: Kind) -> tuple[int, int]:
    """The most plain bytes of a record of that kind, and how many times its frame's length."""
    if kind is Kind.INDEX:
        return INDEX_PLAIN_MAX, NAMES_RATIO_MAX
    return OUTLINE_PLAIN_MAX if kind in (Kind.OUTLINE, Kind.BRIEFS) else RECORD_PLAIN_MAX, RECORD_RATIO_MAX


def unseal_record(keys: VaultKeys, kind: Kind, name: str, data: bytes) -> tuple[bytes, bytes]:
    """The inverse of `seal_record`: body and tag."""
    sealer = open_sealer(keys, kind, name, data[:HEAD_BYTES])
    offset, length = directory_range(name, len(data), data[-FOOTER_BYTES:])
    if offset != HEAD_BYTES:
        raise damaged(name, "it has sections although its kind has none")
    stored = data[offset : offset + length]
    plain_max, ratio = _limits(kind)
    body = unpack_frame(name, sealer.unseal(DIRECTORY_NUMBER, stored), plain_max, ratio=ratio)
    return body, stored[-TAG_BYTES:]
