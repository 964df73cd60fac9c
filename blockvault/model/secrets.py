"""The keys of an opened vault, in memory only.

`VaultKeys` is made by `keys.py` from the vault's header and, for an encrypted vault, from a secret; whoever holds
it can read and write the vault. It never appears in a message: `repr` shows the vault id alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Secret:
    """What a user gives to open an encrypted vault: a passphrase or the bytes of a key file."""

    passphrase: bytes | None = field(default=None, repr=False)
    key_file: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class VaultKeys:
    """Derived keys. `data_keys` has one 32-byte key per epoch; new objects use the highest epoch.

    `id_key` (identity of blocks), `run_key` (binding of runs) and `digest_seed` never change in a vault's life.
    """

    vault_id: bytes  # 16 bytes
    encrypted: bool
    id_key: bytes = field(repr=False)
    run_key: bytes = field(repr=False)
    digest_seed: int = field(repr=False)
    data_keys: Mapping[int, bytes] = field(repr=False)  # epochs 0 to the highest

    @property
    def epoch(self) -> int:
        """The epoch of the data key that new objects are sealed with."""
        return len(self.data_keys) - 1
