"""The configuration of this host: where things lie, how much may run at once, whom to tell.

    settings = load_settings()
    settings.daemon.captures, settings.origin_of("daemon.captures")

A setting comes from the first of these that has it: an option of the command, the environment, the file that `--config`
or `BLOCKVAULT_CONFIG` names, the user's file, the system's files, what is built in. `reading` finds and reads the
files, `settings` says what there is to set, `kinds` what a value may be, `lines` where it stands in its file.

Importing this costs nothing; the rest loads when a setting is asked for, and TOML is parsed only where there is a file.
A caller that names another state folder has a world of its own: the configuration moves none of its vaults.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from blockvault.ids import check_vault_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blockvault.config.settings import Settings

DEFAULT_VAULT = "default"


def load_settings(flags: Mapping[str, tuple[str, str]] | None = None) -> Settings:
    """All settings as they are now.

    Args:
        flags: what options of the command say: setting -> (option, value), for example
            `{"general.vault": ("--vault", "site")}`.

    Raises:
        InvalidInputError: a file, or the environment, says what cannot be (`config.*`).
        DeviceError: a file cannot be read (`config.unreadable`).
    """
    from blockvault.config.reading import read_settings

    return read_settings(flags or {})


def default_state_dir() -> str:
    """`$BLOCKVAULT_STATE_DIR`; else as configured; else what is built in."""
    return load_settings().general.state_dir


def default_vault() -> str:
    """`$BLOCKVAULT_VAULT`; else as configured; else `default`."""
    return load_settings().general.vault


def built_in_state_dir() -> str:
    """Where state lies if nothing says otherwise: `/var/lib/blockvault`, or `$XDG_DATA_HOME/blockvault` for a user."""
    if os.geteuid() == 0:
        return "/var/lib/blockvault"
    data_home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data_home, "blockvault")


def config_dir() -> str:
    """`$BLOCKVAULT_CONFIG_DIR`; else `/etc/blockvault` for root, `$XDG_CONFIG_HOME/blockvault` for others."""
    named = os.environ.get("BLOCKVAULT_CONFIG_DIR")
    if named:
        return os.path.abspath(named)
    if os.geteuid() == 0:
        return "/etc/blockvault"
    config_home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(config_home, "blockvault")


def vault_path(name_or_path: str, state_dir: str | None = None) -> str:
    """Where the vault of that name lies; a name with a slash is a folder itself.

    Args:
        name_or_path: as `--vault` takes it.
        state_dir: a state folder that was named. Where it is not that of this host, as the configuration has it, the
            configuration says nothing of where its vaults lie.
    """
    if "/" in name_or_path:
        return os.path.abspath(name_or_path)
    check_vault_name(name_or_path)
    settings = load_settings()
    configured = settings.vault(name_or_path).path
    if configured and state_dir in (None, settings.general.state_dir):
        return configured
    return os.path.join(state_dir or settings.general.state_dir, "vaults", name_or_path)


def configured_vaults(state_dir: str) -> dict[str, str]:
    """The vaults, name -> folder, that the configuration places; none for a state folder that is not this host's."""
    settings = load_settings()
    if state_dir != settings.general.state_dir:
        return {}
    return {name: vault.path for name, vault in settings.vaults.items() if vault.path}
