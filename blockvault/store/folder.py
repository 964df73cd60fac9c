"""A vault's folder: making one, recognising one, and opening it with its keys.

    vault.json      two lines: the header as JSON, and the BLAKE3 of that line
    keys/<slot>     encrypted vaults: the master key, wrapped (`key_slots.py`)
    config/<rev>    sealed record: name, minimum versions, number of key epochs

The header never changes. A vault comes into being in a folder of its own beside the final place and is moved there
whole, so a half-made vault is never met.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import blake3
import msgspec

from blockvault import keys as vault_keys
from blockvault.clock import from_text, to_text
from blockvault.errors import (
    AlreadyExistsError,
    BlockVaultError,
    ConflictError,
    CorruptionError,
    DeviceError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
    WrongKeyError,
)
from blockvault.format import records
from blockvault.format.envelope import FORMAT_VERSION, Kind, damaged, seal_record, unseal_record
from blockvault.ids import VAULT_NAME, random_name
from blockvault.model import Secret, VaultKeys
from blockvault.store.catalog import record_names
from blockvault.store.host import folder_identity
from blockvault.store.index import Index
from blockvault.store.key_slots import read_slots, slot_object
from blockvault.store.local import (
    LocalStore,
    NotPlainError,
    device_error,
    foreign,
    make_folders,
    open_plain,
    sync_folder,
)
from blockvault.units import check_chunk_size

HEADER = "vault.json"
KEY_SLOTS_MAX = 64


class Header(msgspec.Struct, frozen=True):
    """What stands in `vault.json`. `master_key` only without encryption."""

    magic: str
    format_version: int
    vault_id: str
    chunk_size: int
    encryption: str  # "none" | "aes-256-gcm"
    fingerprint: str
    created: str
    master_key: str | None = None


@dataclass(frozen=True, slots=True)
class OpenedKey:
    """The master key, and the number of the key slot that gave it; None: a paper key, or no encryption."""

    master: bytes = field(repr=False)
    slot: int | None


class VaultFolder:
    """An opened vault folder: header, keys, store."""

    def __init__(
        self, path: str, header: Header, opened: OpenedKey, keys: VaultKeys, config: records.ConfigBody, revision: int
    ) -> None:
        self.path = path
        self.header = header
        self.opened = opened
        self.keys = keys
        self.config = config
        self.config_revision = revision
        self.store = LocalStore(path)
        self.refused: DeviceError | None = None  # why it could not be opened for writing

    @property
    def header_path(self) -> str:
        """Path of the header file."""
        return os.path.join(self.path, HEADER)

    def change_config(self, now: datetime, **fields: Any) -> records.ConfigBody:
        """Write the next revision of the configuration with these fields changed.

        Raises:
            ConflictError: another process wrote one meanwhile (`vault.changed-meanwhile`).
        """
        config = msgspec.structs.replace(self.config, created=to_text(now), **fields)
        try:
            put_config(self.store, self.keys, self.config_revision + 1, config)
        except AlreadyExistsError:
            raise ConflictError(
                "vault.changed-meanwhile",
                f"the settings of the vault at {self.path} were changed meanwhile",
                why="another process wrote its next configuration first",
                do="look at them with `blockvault vault show`, then run the command again",
            ) from None
        self.config, self.config_revision = config, self.config_revision + 1
        return config

    def open_index(self, now: datetime, note: str) -> Index | None:
        """The vault's LMDB store, or None where the folder cannot be written, or not by this version.

        `note` is the host's file that says which store it made here itself; any other is not opened, but made anew.
        Nothing that is only read needs it; `refused` says what the system said.
        """
        if self.config.min_writer > FORMAT_VERSION or not os.access(self.path, os.W_OK):
            return None
        try:
            return Index(os.path.join(self.path, "lmdb"), folder_identity(self.header_path), now=now, note=note)
        except OSError as error:
            self.refused = error if isinstance(error, DeviceError) else device_error(error, "opening the vault's index")
            return None


def encode_header(header: Header) -> bytes:
    """The bytes of `vault.json`."""
    line = msgspec.json.encode(header)
    return line + b"\n" + blake3.blake3(line).hexdigest().encode() + b"\n"


def _header_bytes(file: str) -> bytes:
    with open(open_plain(file), "rb") as stream:
        return stream.read(64 << 10)


def read_header(path: str) -> Header:
    """The header of the vault in folder `path`.

    Raises:
        NotFoundError: there is no such folder (`vault.not-found`).
        CorruptionError: the header is damaged (`vault.header-damaged`).
        BlockVaultError: the folder is not a vault (`vault.not-a-vault`).
        UnsupportedError: it is of a newer format (`vault.newer-format`).
    """
    file = os.path.join(path, HEADER)
    try:
        data = _header_bytes(file)
    except NotPlainError as error:
        raise foreign(f"the header {file}", error.reason) from None
    except (FileNotFoundError, NotADirectoryError):
        if os.path.isdir(path):
            if os.path.exists(file):  # another process made the vault in this moment: whole, by one rename
                return read_header(path)
            if any(os.path.isdir(os.path.join(path, part)) for part in ("points", "main")):
                raise CorruptionError(
                    "vault.header-missing",
                    f"the vault in {path} has lost its header {HEADER}",
                    why="without it the keys that bind its objects are unknown",
                    do=f"put {HEADER} back from a copy of the vault",
                ) from None
            raise NotFoundError(
                "vault.not-a-vault",
                f"{path} is a folder but not a vault",
                why=f"it has no {HEADER}",
                do="name a vault, or make one with `blockvault vault create`",
            ) from None
        raise NotFoundError(
            "vault.not-found",
            f"there is no vault at {path}",
            why="no such folder",
            do="see `blockvault vault list`, or make one with `blockvault vault create`",
        ) from None
    except OSError as error:
        raise device_error(error, f"reading {file}", kind="vault.unreadable") from error
    line, _, rest = data.partition(b"\n")
    matches = False
    try:
        loose = msgspec.json.decode(line, type=dict[str, object])
        version = loose.get("format_version")
        if loose.get("magic") == "blockvault" and isinstance(version, int) and version > FORMAT_VERSION:
            raise UnsupportedError(
                "vault.newer-format",
                f"the vault at {path} has format version {version}",
                why=f"this BlockVault reads versions up to {FORMAT_VERSION}",
                do="use a newer BlockVault for this vault",
            )
        matches = rest.strip() == blake3.blake3(line).hexdigest().encode()
        if not matches:
            raise CorruptionError("vault.header-damaged", "")
        header = msgspec.json.decode(line, type=Header)
        _check_header(header)
    except (msgspec.MsgspecError, ValueError, RecursionError, BlockVaultError) as error:
        if isinstance(error, UnsupportedError):
            raise
        raise CorruptionError(
            "vault.header-damaged",
            f"the header {file} is damaged",
            why="it says what cannot be" if matches else "its checksum does not match its text",
            do=f"put {HEADER} back from a copy of the vault; nothing else of the vault was touched",
        ) from None
    return header


def check_soft_delete_days(days: int) -> None:
    """Raise `InvalidInputError` (`vault.soft-delete-days`) for what cannot be."""
    if not 0 <= days <= records.SOFT_DELETE_DAYS_MAX:
        raise InvalidInputError(
            "vault.soft-delete-days",
            f"deleted points cannot be kept for {days} days",
            why=f"0 to {records.SOFT_DELETE_DAYS_MAX} days are possible",
        )


def _check_header(header: Header) -> None:
    """Raise where a field says what no writer wrote, whoever made the checksum."""
    encrypted = header.encryption == "aes-256-gcm"
    if (
        header.magic != "blockvault"
        or header.format_version != FORMAT_VERSION
        or not re.fullmatch("[0-9a-f]{32}", header.vault_id)
        or (not encrypted and not re.fullmatch("[0-9a-f]{64}", header.master_key or ""))
        or header.encryption not in ("none", "aes-256-gcm")
    ):
        raise CorruptionError("vault.header-damaged", "")
    check_chunk_size(header.chunk_size)
    from_text(header.created)


def create_vault(
    path: str, name: str, *, chunk_size: int, secret: Secret | None, soft_delete_days: int, now: datetime
) -> None:
    """Make a vault in the folder `path`, which must not exist or be empty.

    Raises:
        InvalidInputError: the soft-delete days cannot be (`vault.soft-delete-days`).
        AlreadyExistsError: something is there (`vault.exists`).
        InvalidInputError: the secret is none that a key slot may be made with (`key.*`).
        DeviceError: the system refused.
    """
    if secret is not None:
        vault_keys.check_new_secret(secret)
    path = os.path.abspath(path)
    check_soft_delete_days(soft_delete_days)
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise AlreadyExistsError(
            "vault.exists",
            f"there is already something at {path}",
            why="a vault is made in a new or empty folder",
            do="choose another place or name, or use the vault that is there",
        )
    parent = os.path.dirname(path)
    building = os.path.join(parent, f".{os.path.basename(path)}.making-{os.urandom(4).hex()}")
    try:
        make_folders("/", parent.lstrip("/"), mode=0o700)
        os.mkdir(building, 0o700)
        store = LocalStore(building)
        vault_id, master = random_name(), vault_keys.new_master_key()
        keys = vault_keys.derive(master, vault_id, encrypted=secret is not None)
        if secret is not None:
            slot = vault_keys.wrap(master, vault_id, 0, secret, label="first", created=to_text(now))
            store.put_new(slot_object(0), slot)
        config = records.ConfigBody(
            name=name,
            min_reader=1,
            min_writer=1,
            epochs=1,
            created=to_text(now),
            soft_delete_days=soft_delete_days,
        )
        put_config(store, keys, 0, config)
        header = Header(
            magic="blockvault",
            format_version=FORMAT_VERSION,
            vault_id=vault_id.hex(),
            chunk_size=chunk_size,
            encryption="aes-256-gcm" if secret is not None else "none",
            fingerprint=vault_keys.fingerprint(keys),
            created=to_text(now),
            master_key=None if secret is not None else master.hex(),
        )
        store.put_new(HEADER, encode_header(header))
        os.rename(building, path)
        sync_folder(parent)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, BlockVaultError):
            raise
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise AlreadyExistsError("vault.exists", f"there is already something at {path}") from None
        raise device_error(error, f"making a vault at {path}", kind="vault.cannot-create") from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def open_folder(path: str, secret: Secret | None) -> VaultFolder:
    """Open the vault in folder `path`. Nothing is written, and nothing is read but header, key slots and config.

    Raises:
        NotFoundError, CorruptionError, UnsupportedError: see `read_header`.
        WrongKeyError: it is encrypted and the secret does not open it (`key.missing`, `key.wrong`).
    """
    path = os.path.realpath(path)
    header = read_header(path)
    vault_id = bytes.fromhex(header.vault_id)
    store = LocalStore(path)
    encrypted = header.encryption != "none"
    opened = _open_key(store, header, secret, os.path.basename(path))
    keys = vault_keys.derive(opened.master, vault_id, encrypted=encrypted)
    if vault_keys.fingerprint(keys) != header.fingerprint:
        if encrypted and opened.slot is None:
            raise WrongKeyError(
                "key.wrong",
                f"the paper key does not open the vault at {path}",
                why="it is the paper key of another vault",
                do=f"look for the one that names the vault id {header.vault_id}; nothing was changed",
            )
        raise WrongKeyError(
            "key.wrong",
            f"the keys of the vault at {path} are not those that its header names",
            why="the key slots belong to another vault, or the header does",
            do="put vault.json and keys/ back from one and the same copy",
        )
    revisions = record_names(store, Kind.CONFIG)
    if not revisions:
        raise CorruptionError(
            "vault.config-missing",
            f"the vault at {path} has lost its folder config/",
            do="put it back from a copy",
        )
    name = revisions[-1]
    body, _ = unseal_record(keys, Kind.CONFIG, name, store.read(name, limit=1 << 20))
    config: records.ConfigBody = records.decode(name, body, records.ConfigBody)
    if not VAULT_NAME.match(config.name):
        raise damaged(name, "its record gives the vault a name that cannot be")
    if config.min_reader > FORMAT_VERSION:
        raise UnsupportedError(
            "vault.newer-format",
            f"the vault at {path} needs a reader of version {config.min_reader}",
            why=f"this BlockVault reads versions up to {FORMAT_VERSION}",
            do="use a newer BlockVault for this vault",
        )
    if config.epochs > 1:
        keys = vault_keys.derive(opened.master, vault_id, encrypted=encrypted, epochs=config.epochs)
    return VaultFolder(path, header, opened, keys, config, revision=int(name.rpartition("/")[2]))


def _open_key(store: LocalStore, header: Header, secret: Secret | None, name: str) -> OpenedKey:
    if header.encryption == "none":
        return OpenedKey(bytes.fromhex(header.master_key or ""), None)
    if secret is not None and secret.master_key is not None:
        return OpenedKey(secret.master_key, None)
    return OpenedKey(*vault_keys.unwrap(read_slots(store), bytes.fromhex(header.vault_id), secret, name))


def put_config(store: LocalStore, keys: VaultKeys, revision: int, config: records.ConfigBody) -> None:
    """Create a revision of the configuration. Raises `AlreadyExistsError` where another writer was faster."""
    name = f"config/{revision:06d}"
    data, _ = seal_record(keys, Kind.CONFIG, name, records.encode(config))
    store.put_new(name, data)
