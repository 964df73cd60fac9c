"""Finding the configuration's files, reading them, and laying what they say over one another.

Later files win, key by key; channels of `[[notify]]` by their name. A file that says what cannot be is an error, with
its line, and nothing of it is used: a setting that is ignored because it is misspelled is found out too late.

Nothing that a file says is run, and none may name a secret itself: it names the file that holds it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockvault.config import built_in_state_dir
from blockvault.config.kinds import BadValueError, Kind
from blockvault.config.lines import key_lines, line_of
from blockvault.config.settings import (
    NAMED,
    NEEDED,
    SECTIONS,
    VERSION,
    BandwidthRule,
    Channel,
    Origin,
    Settings,
    keys_of,
)
from blockvault.errors import BlockVaultError, DeviceError, InvalidInputError, UnsupportedError
from blockvault.ids import VAULT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blockvault.config.lines import Path

SYSTEM_DIR = "/etc/blockvault"
FILE_BYTES_MAX = 1 << 20
_TABLES = ("version", *SECTIONS, "notify", *NAMED)
_SECRET_WORDS = ("password", "passphrase", "secret", "token")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One place where settings may stand. `needed`: it was named, so it must be there."""

    path: str
    kind: str  # system, user or named
    needed: bool = False


class _Told(dict[str, tuple[Any, Origin]]):
    """What a source says: setting -> value and where it comes from."""


def config_files() -> list[ConfigFile]:
    """The files that are read, those that are there and those that are not, in order: a later one wins.

    `BLOCKVAULT_CONFIG_DIR` stands in the place of the system's folder and of the user's file both.
    """
    own = os.environ.get("BLOCKVAULT_CONFIG_DIR")
    top = os.path.abspath(own) if own else SYSTEM_DIR
    files = [ConfigFile(os.path.join(top, "config.toml"), "system")]
    folder = os.path.join(top, "conf.d")
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise _unreadable(folder, error) from None
    files += [
        ConfigFile(os.path.join(folder, name), "system")
        for name in names
        if name.endswith(".toml") and not name.startswith(".")
    ]
    if not own:
        home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        files.append(ConfigFile(os.path.join(home, "blockvault", "config.toml"), "user"))
    named = os.environ.get("BLOCKVAULT_CONFIG")
    if named:
        files.append(ConfigFile(os.path.abspath(named), "named", needed=True))
    return files


def read_settings(flags: Mapping[str, tuple[str, str]]) -> Settings:
    """See `load_settings`."""
    told, read = _Told(), []
    for file in config_files():
        text = read_text(file)
        if text is None:
            continue
        said, faults = read_document(file.path, text)
        _raise_first(faults)
        told.update(said)
        read.append(file.path)
    for source, faults in (_from_environment(), _from_flags(flags)):
        _raise_first(faults)
        told.update(source)
    return _settings(told, tuple(read))


def check_file(path: str) -> list[BlockVaultError]:
    """All that is wrong with a file; nothing: it is good."""
    try:
        text = read_text(ConfigFile(os.path.abspath(path), "named", needed=True))
    except BlockVaultError as error:
        return [error]
    assert text is not None
    return read_document(os.path.abspath(path), text)[1]


def read_text(file: ConfigFile) -> str | None:
    """A file's text; None if it is not there and need not be."""
    try:
        with open(file.path, "rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        if not file.needed:
            return None
        raise InvalidInputError(
            "config.not-found",
            f"there is no configuration file {file.path}",
            why=error.strerror,
            do="check --config and $BLOCKVAULT_CONFIG",
        ) from None
    except OSError as error:
        if isinstance(error, NotADirectoryError) and not file.needed:
            return None
        raise _unreadable(file.path, error) from None
    if len(data) > FILE_BYTES_MAX:
        raise InvalidInputError(
            "config.too-large",
            f"the configuration file {file.path} is too large",
            why=f"it has more than {FILE_BYTES_MAX} bytes",
            do="check that it is one",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InvalidInputError(
            "config.syntax", f"{file.path}:{line}: this is not text in UTF-8", do="write the file anew as UTF-8"
        ) from None


def read_document(path: str, text: str) -> tuple[_Told, list[BlockVaultError]]:
    """What a file says, and all that is wrong with it."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)|\(at end of document\)", str(error))
        at = path  # what tomllib cannot place, a number of thousands of digits, has no line
        if found:
            at = f"{path}:{found[1] or text.count(chr(10)) + 1}"
        reason = str(error).split(" (at ")[0] if isinstance(error, tomllib.TOMLDecodeError) else "it cannot be read"
        return _Told(), [
            InvalidInputError(
                "config.syntax",
                f"{at}: this is not TOML",
                why=reason[:1].lower() + reason[1:],
                do="text stands in quotes, lists in [ ]; see docs/configuration.md",
            )
        ]
    return _Document(path, document, key_lines(text)).read()


class _Document:
    """One file while it is read."""

    def __init__(self, path: str, document: dict[str, Any], lines: dict[Path, int]) -> None:
        self._path = path
        self._document = document
        self._lines = lines
        self._told = _Told()
        self._faults: list[BlockVaultError] = []

    def read(self) -> tuple[_Told, list[BlockVaultError]]:
        self._check_version()
        for name, value in self._document.items():
            if name == "version":
                continue
            if name in SECTIONS:
                self._section((name,), value, SECTIONS[name])
            elif name == "notify":
                self._channels(value)
            elif name in NAMED:
                self._named(name, value, NAMED[name])
            else:
                self._unknown((name,), _TABLES, "table")
        return self._told, self._faults

    def _check_version(self) -> None:
        version = self._document.get("version")
        if version is None:
            self._fault(
                "config.version", (), "the file does not say its version", do=f"add the line: version = {VERSION}"
            )
        elif isinstance(version, bool) or not isinstance(version, int):
            self._fault(
                "config.version", ("version",), "the version is no whole number", do=f"write: version = {VERSION}"
            )
        elif version != VERSION:
            why = f"this BlockVault reads version {VERSION}"
            self._faults.append(
                UnsupportedError(
                    "config.newer-version",
                    f"{self._at(('version',))}: a configuration of version {version} cannot be read",
                    why=why,
                    do="use the BlockVault that the file was written for",
                )
            )

    def _section(self, path: Path, value: object, table: type[Any]) -> None:
        if not isinstance(value, dict):
            self._not_a_table(path)
            return
        for key, entry in value.items():
            if (table, key) == (SECTIONS["daemon"], "bandwidth"):
                self._bandwidth((*path, key), entry)
            else:
                self._value((*path, key), entry, table, self._told)

    def _named(self, name: str, value: object, table: type[Any]) -> None:
        if not isinstance(value, dict):
            self._not_a_table((name,))
            return
        for key, entry in value.items():
            path = (name, key)
            if not VAULT_NAME.match(key):
                self._fault(
                    "config.bad-name",
                    path,
                    f"'{key}' cannot name a vault",
                    why="a vault's name has 2 to 50 letters, digits and hyphens and begins with a letter",
                    do=f"write [{name}.NAME] above the settings of the vault NAME",
                )
            else:
                self._section(path, entry, table)

    def _bandwidth(self, path: Path, value: object) -> None:
        rules = []
        for where, said in self._tables(path, value, BandwidthRule):
            if {"begin", "end"} <= said.keys() and (said["begin"] == said["end"] or said["begin"] == 1440):
                why = "a whole day is from 00:00 to 24:00"
                self._fault("config.bad-value", where, "a limit from a time to the same time never applies", why=why)
            rules.append(BandwidthRule(**said))
        if isinstance(value, list):
            self._told["daemon.bandwidth"] = (tuple(rules), self._origin(path))

    def _channels(self, value: object) -> None:
        seen: set[str] = set()
        for where, said in self._tables(("notify",), value, Channel):
            name = said.get("name", "")
            if name in seen:
                self._fault("config.bad-value", where, f"there are two channels named '{name}'", do="rename one")
            seen.add(name)
            if name:
                self._told[f"notify.{name}"] = (Channel(**said), self._origin(where))

    def _tables(self, path: Path, value: object, table: type[Any]) -> Iterable[tuple[Path, dict[str, Any]]]:
        """Each table of a list: where it stands, and the fields that could be read."""
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            self._fault(
                "config.wrong-type", path, f"{_name(path)} must be a list of tables", do="see docs/configuration.md"
            )
            return
        for index, entry in enumerate(value):
            where = (*path, index)
            said = _Told()
            for key, given in entry.items():
                self._value((*where, key), given, table, said)
            for key in NEEDED[table]:
                if key not in entry:
                    self._fault("config.missing-key", where, f"{_name(where)} lacks '{key}'", do=f"add: {key} = ...")
            names = {key: field.name for key, field in keys_of(table).items()}
            yield where, {names[setting.rsplit(".", 1)[1]]: found for setting, (found, _) in said.items()}

    def _value(self, path: Path, value: object, table: type[Any], into: _Told) -> None:
        known = keys_of(table)
        key = path[-1]
        if key not in known:
            others = [*known, "bandwidth"] if table is SECTIONS["daemon"] else known
            self._unknown(path, others, "setting")
            return
        kind: Kind = known[str(key)].metadata["kind"]
        try:
            into[_name(path)] = (kind.read(value), self._origin(path))
        except BadValueError as error:
            secret = known[str(key)].metadata["secret"]
            self._faults.append(_bad_value(self._at(path), path, value, error, secret=secret))

    # --- faults

    def _unknown(self, path: Path, known: Iterable[str], noun: str) -> None:
        import difflib

        key = str(path[-1])
        close = difflib.get_close_matches(key.lower(), list(known), 1)
        do = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known)}"
        why = f"a {noun} that is misspelled would be ignored, so it is an error"
        if path[0] == "items" or (path[0] == "item" and len(path) == 1):
            why, do = "the settings of items are kept in the vault", "use `blockvault item set`"
        elif any(word in key for word in _SECRET_WORDS):
            why, do = "secrets do not stand in the configuration", "name a file: secret_file, or key_file of a vault"
        where = f" in [{_name(path[:-1])}]" if len(path) > 1 else ""
        self._fault("config.unknown-key", path, f"there is no {noun} '{key}'{where}", why=why, do=do)

    def _not_a_table(self, path: Path) -> None:
        self._fault(
            "config.wrong-type", path, f"{_name(path)} must be a table", do=f"write [{_name(path)}] above its keys"
        )

    def _fault(self, kind: str, path: Path, message: str, *, why: str | None = None, do: str | None = None) -> None:
        self._faults.append(InvalidInputError(kind, f"{self._at(path)}: {message}", why=why, do=do))

    def _at(self, path: Path) -> str:
        return f"{self._path}:{line_of(self._lines, path)}"

    def _origin(self, path: Path) -> Origin:
        return Origin(self._path, line_of(self._lines, path))


def environment_name(setting: str) -> str:
    """The environment variable of a setting: `BLOCKVAULT_VAULT`, `BLOCKVAULT_DAEMON_CAPTURES`."""
    return "BLOCKVAULT_" + setting.removeprefix("general.").replace(".", "_").upper()


def _from_environment() -> tuple[_Told, list[BlockVaultError]]:
    told, faults = _Told(), list[BlockVaultError]()
    for section, table in SECTIONS.items():
        for key, entry in keys_of(table).items():
            setting = f"{section}.{key}"
            variable = environment_name(setting)
            text = os.environ.get(variable)
            if not text:
                continue
            kind: Kind = entry.metadata["kind"]
            try:
                told[setting] = (kind.read(kind.from_text(text)), Origin(f"${variable}"))
            except BadValueError as error:
                faults.append(_bad_value(f"${variable}", (section, key), text, error))
    return told, faults


def _from_flags(flags: Mapping[str, tuple[str, str]]) -> tuple[_Told, list[BlockVaultError]]:
    told, faults = _Told(), list[BlockVaultError]()
    for setting, (option, text) in flags.items():
        section, key = setting.split(".")
        kind: Kind = keys_of(SECTIONS[section])[key].metadata["kind"]
        try:
            told[setting] = (kind.read(kind.from_text(text)), Origin(option))
        except BadValueError as error:
            faults.append(_bad_value(option, (section, key), text, error))
    return told, faults


def _settings(told: _Told, files: tuple[str, ...]) -> Settings:
    origins = {name: origin for name, (_, origin) in told.items()}
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    vaults: dict[str, dict[str, Any]] = {}
    channels = []
    for name, (value, _) in told.items():
        table, _, rest = name.partition(".")
        if table == "notify":
            channels.append(value)
        elif table == "vault":
            vault, _, key = rest.partition(".")
            vaults.setdefault(vault, {})[key] = value
        else:
            sections[table][rest] = value
    sections["general"].setdefault("state_dir", built_in_state_dir())
    made = Settings(
        **{name: table(**sections[name]) for name, table in SECTIONS.items()},
        notify=tuple(channels),
        vaults={name: NAMED["vault"](**values) for name, values in vaults.items()},
        origins=origins,
        files=files,
    )
    if made.daemon.retry_first > made.daemon.retry_limit:
        raise InvalidInputError(
            "config.bad-value",
            "daemon.retry_first is longer than daemon.retry_limit",
            why=f"{made.origin_of('daemon.retry_first')}, {made.origin_of('daemon.retry_limit')}",
            do="make the first wait the shorter one",
        )
    return made


def _bad_value(at: str, path: Path, value: object, error: BadValueError, *, secret: bool = False) -> InvalidInputError:
    kind = "config.wrong-type" if error.wrong_type else "config.bad-value"
    shown = "what it is set to" if secret else f"'{value}'" if isinstance(value, str) else str(value)[:80]
    return InvalidInputError(
        kind,
        f"{at}: {_name(path)} cannot be {shown}",
        why=error.why,
        do="correct it; docs/configuration.md has every setting",
    )


def _name(path: Path) -> str:
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in path)


def _unreadable(path: str, error: OSError) -> DeviceError:
    return DeviceError(
        "config.unreadable",
        f"the configuration {path} cannot be read",
        why=f"{error.strerror}; without it BlockVault might use another vault than is meant",
        do="give this user the right to read it, or name another with --config or BLOCKVAULT_CONFIG_DIR",
        errno=error.errno,
        filename=path,
    )


def _raise_first(faults: list[BlockVaultError]) -> None:
    if not faults:
        return
    first = faults[0]
    if len(faults) > 1:
        first.do = f"{first.do or 'correct it'}; `blockvault config validate` shows all {len(faults)} faults"
    raise first
