"""BlockVault: block-level backup of virtual machines and disk images.

    from blockvault import Vault

    with Vault.create("default") as vault:
        result = vault.snapshot(["disk.img"])
        vault.restore(str(result.number), output="restored.img")

The names below are the library's front door. They load when first asked for: `import blockvault` costs next
to nothing, so `blockvault --help` does not pay for what it does not show.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockvault.errors import BlockVaultError
    from blockvault.model import Consistency, Secret, Tier
    from blockvault.monitor import Monitor
    from blockvault.vault import Vault

    __version__: str

__all__ = ["BlockVaultError", "Consistency", "Monitor", "Secret", "Tier", "Vault", "__version__"]

_HOMES = {
    "BlockVaultError": "blockvault.errors",
    "Consistency": "blockvault.model",
    "Monitor": "blockvault.monitor",
    "Secret": "blockvault.model",
    "Tier": "blockvault.model",
    "Vault": "blockvault.vault",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("blockvault")
        except PackageNotFoundError:  # run from a source folder that was never installed
            return "0.0.0+source"
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'blockvault' has no attribute '{name}'")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
