"""Keys of a vault: derivation from the master key, and its wrapping in key slots.

The master key is 32 random bytes. Without encryption it stands in the vault's header, and its derived keys only
detect damage; with encryption it is wrapped in key slots and never stored plain. From it come, by HKDF-SHA256:
the id key, the run key and the digest seed, which never change in a vault's life, and one data key per epoch.

A slot wraps the master key with AES-256-GCM under a key from a passphrase (Argon2id, RFC 9106: 64 MiB, 3 passes,
4 lanes) or from the BLAKE3 of a key file. The vault id and the slot's number are bound as associated data.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import blake3
import msgspec

from blockvault.errors import CorruptionError, InvalidInputError, UnsupportedError, WrongKeyError
from blockvault.model import Secret, VaultKeys

ARGON_MEMORY_KIB = 64 << 10
ARGON_MEMORY_KIB_MAX = 1 << 20
ARGON_PASSES = 3
ARGON_LANES = 4
KEY_FILE_BYTES_MIN = 32
WRAPPED_BYTES = 12 + 32 + 16  # nonce, master key, tag


class KeySlot(msgspec.Struct, frozen=True):
    """One way to the master key, as it is stored under `keys/<slot>`."""

    slot: int
    kind: str  # "passphrase" | "key-file"
    salt: str  # hex, 16 bytes
    wrapped: str  # hex: 12-byte nonce, ciphertext, tag
    memory_kib: int = 0
    passes: int = 0
    lanes: int = 0
    label: str = ""


class _DataKeys(Mapping[int, bytes]):
    """The data key of each epoch, derived when it is asked for: a config record may claim a million of them."""

    def __init__(self, derive_key: Callable[[str], bytes], epochs: int) -> None:
        self._derive_key = derive_key
        self._epochs = range(epochs)

    def __getitem__(self, epoch: int) -> bytes:
        if epoch not in self._epochs:
            raise KeyError(epoch)
        return self._derive_key(f"data {epoch}")

    def __iter__(self) -> Iterator[int]:
        return iter(self._epochs)

    def __len__(self) -> int:
        return len(self._epochs)


def new_master_key() -> bytes:
    """32 bytes from the system's random source."""
    return os.urandom(32)


def derive(master: bytes, vault_id: bytes, *, encrypted: bool, epochs: int = 1) -> VaultKeys:
    """All keys of a vault from its master key."""

    def key(label: str) -> bytes:
        prk = hmac.new(vault_id, master, hashlib.sha256).digest()
        return hmac.new(prk, b"blockvault/1 " + label.encode() + b"\x01", hashlib.sha256).digest()

    return VaultKeys(
        vault_id=vault_id,
        encrypted=encrypted,
        id_key=key("id"),
        run_key=key("run"),
        digest_seed=struct.unpack("<Q", key("digest seed")[:8])[0],
        data_keys=_DataKeys(key, epochs),
    )


def fingerprint(keys: VaultKeys) -> str:
    """Tells whether a master key is this vault's, without telling anything of it."""
    return blake3.blake3(b"fingerprint", key=keys.run_key).hexdigest(length=16)


def wrap(master: bytes, vault_id: bytes, slot: int, secret: Secret, label: str = "") -> bytes:
    """The stored form of a key slot that opens with `secret`."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = os.urandom(16), os.urandom(12)
    costs = (
        {}
        if secret.passphrase is None
        else {"memory_kib": ARGON_MEMORY_KIB, "passes": ARGON_PASSES, "lanes": ARGON_LANES}
    )
    kind = "key-file" if secret.passphrase is None else "passphrase"
    blank = KeySlot(slot=slot, kind=kind, salt=salt.hex(), wrapped="", label=label, **costs)
    wrapped = nonce + AESGCM(_wrapping_key(blank, secret)).encrypt(nonce, master, _associated(vault_id, slot))
    return msgspec.json.encode(msgspec.structs.replace(blank, wrapped=wrapped.hex()))


def unwrap(slots: list[bytes], vault_id: bytes, secret: Secret | None, vault_name: str) -> bytes:
    """The master key from whichever slot opens.

    Raises:
        WrongKeyError: no secret was given (`key.missing`) or none of the slots opens with it (`key.wrong`).
        CorruptionError: no slot is readable (`key.slots-damaged`).
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if secret is None or (secret.passphrase is None and secret.key_file is None):
        raise WrongKeyError(
            "key.missing",
            f"the vault '{vault_name}' is encrypted and no key was given",
            why="neither a passphrase nor a key file reached this command",
            do="set BLOCKVAULT_PASSWORD_FILE or BLOCKVAULT_PASSWORD_COMMAND, or use --key-file",
        )
    readable = 0
    for data in slots:
        try:
            slot = msgspec.json.decode(data, type=KeySlot)
            wrapped = bytes.fromhex(slot.wrapped)
            if len(wrapped) != WRAPPED_BYTES or not 0 <= slot.slot < 1 << 32:
                continue
            key = _wrapping_key(slot, secret)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        readable += 1
        if key is None:
            continue
        try:
            return AESGCM(key).decrypt(wrapped[:12], wrapped[12:], _associated(vault_id, slot.slot))
        except InvalidTag:
            continue
    if not readable:
        raise CorruptionError(
            "key.slots-damaged",
            f"no key slot of the vault '{vault_name}' is readable",
            why="the files under keys/ are missing or damaged",
            do="put the folder keys/ back from a copy of the vault",
        )
    raise WrongKeyError(
        "key.wrong",
        f"the given key does not open the vault '{vault_name}'",
        why=f"none of its {readable} key slots fits",
        do="check the passphrase or key file; nothing was changed",
    )


def read_key_file(data: bytes, path: str) -> Secret:
    """A `Secret` from the bytes of a key file. Raises `InvalidInputError` (`key.file-short`) below 32 bytes."""
    if len(data) < KEY_FILE_BYTES_MIN:
        raise InvalidInputError(
            "key.file-short",
            f"the key file {path} has only {len(data)} bytes",
            why=f"a key file needs at least {KEY_FILE_BYTES_MIN} random bytes",
            do=f"make one: head -c 32 /dev/urandom > {path}",
        )
    return Secret(key_file=data)


def _associated(vault_id: bytes, slot: int) -> bytes:
    return b"blockvault/1 key slot" + vault_id + struct.pack("<I", slot)


def _wrapping_key(slot: KeySlot, secret: Secret) -> Any:
    """32 bytes, or None when the slot is of another kind than the secret."""
    salt = bytes.fromhex(slot.salt)
    if slot.kind == "key-file":
        if secret.key_file is None:
            return None
        return blake3.blake3(secret.key_file, key=hashlib.sha256(b"blockvault key file" + salt).digest()).digest()
    if slot.kind != "passphrase" or secret.passphrase is None:
        return None
    if not (8 <= slot.memory_kib <= ARGON_MEMORY_KIB_MAX and 1 <= slot.passes <= 16 and 1 <= slot.lanes <= 16):
        raise ValueError("costs out of bounds")
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    except ImportError as error:
        raise UnsupportedError(
            "key.no-argon2",
            "this Python's cryptography has no Argon2id",
            why=str(error),
            do="install cryptography 44 or newer",
        ) from None
    kdf = Argon2id(salt=salt, length=32, iterations=slot.passes, lanes=slot.lanes, memory_cost=slot.memory_kib)
    return kdf.derive(secret.passphrase)
