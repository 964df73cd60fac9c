"""The keys of an opened vault, in memory only.

`VaultKeys` is made by `keys.py` from the vault's header and, for an encrypted vault, from a secret; whoever holds
it can read and write the vault. It never appears in a message: `repr` shows the vault id alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Secret:
    """What a user gives to open an encrypted vault: a passphrase, the bytes of a key file, or a paper key's key.

    A paper key is the master key itself: it opens the vault without any key slot.
    """

    passphrase: bytes | None = field(default=None, repr=False)
    key_file: bytes | None = field(default=None, repr=False)
    master_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class VaultKeys:
    """Derived keys. New objects are sealed under `data_key(epoch)`; an old one under that of the epoch in its head.

    Data keys are derived when they are asked for, whatever the epoch: a process that opened the vault before an epoch
    began reads what others seal under it. `id_key` (identity of blocks), `run_key` (binding of runs) and `digest_seed`
    never change in a vault's life.
    """

    vault_id: bytes  # 16 bytes
    encrypted: bool
    id_key: bytes = field(repr=False)
    run_key: bytes = field(repr=False)
    digest_seed: int = field(repr=False)
    data_key: Callable[[int], bytes] = field(repr=False)  # 32 bytes, by epoch
    epoch: int = 0
