"""Where things lie on this host: the state folder, the default vault. The environment overrides what is built in."""

from __future__ import annotations

import os

from blockvault.ids import check_vault_name

DEFAULT_VAULT = "default"


def default_state_dir() -> str:
    """`$BLOCKVAULT_STATE_DIR`; else `/var/lib/blockvault` for root, `$XDG_DATA_HOME/blockvault` for others."""
    named = os.environ.get("BLOCKVAULT_STATE_DIR")
    if named:
        return os.path.abspath(named)
    if os.geteuid() == 0:
        return "/var/lib/blockvault"
    data_home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data_home, "blockvault")


def default_vault() -> str:
    """`$BLOCKVAULT_VAULT`, or `default`."""
    return os.environ.get("BLOCKVAULT_VAULT") or DEFAULT_VAULT


def vault_path(name_or_path: str, state_dir: str) -> str:
    """Where the vault of that name lies; a name with a slash is a folder itself."""
    if "/" in name_or_path:
        return os.path.abspath(name_or_path)
    return os.path.join(state_dir, "vaults", check_vault_name(name_or_path))
