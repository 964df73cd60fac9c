"""The configuration: what wins over what, where a value comes from, and that nothing misspelled is ignored."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockvault.config import default_state_dir, default_vault, load_settings, vault_path
from blockvault.config.lines import key_lines, line_of
from blockvault.config.reading import check_file, config_files, environment_name, read_document
from blockvault.config.settings import NAMED, SECTIONS, BandwidthRule, Channel, Settings, keys_of
from blockvault.errors import BlockVaultError, DeviceError, InvalidInputError, UnsupportedError

Write = Callable[[str, str], Path]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """`write("system", text)`, `"user"`, `"conf.d/10-x"`, `"named"`: a file of this test's configuration."""
    for name in list(os.environ):
        if name.startswith("BLOCKVAULT_"):
            monkeypatch.delenv(name)  # also the folder that stands for no configuration in tests
    monkeypatch.setattr("blockvault.config.reading.SYSTEM_DIR", str(tmp_path / "etc"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))

    def put(where: str, text: str) -> Path:
        path = {"system": tmp_path / "etc/config.toml", "user": tmp_path / "home/blockvault/config.toml"}.get(
            where, tmp_path / "etc" / f"{where}.toml"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if where == "named":
            monkeypatch.setenv("BLOCKVAULT_CONFIG", str(path))
        return path

    return put


def general(vault: str) -> str:
    return f'version = 1\n[general]\nvault = "{vault}"\n'


def faults(text: str) -> list[BlockVaultError]:
    return read_document("/c.toml", text)[1]


def only_fault(text: str) -> BlockVaultError:
    (fault,) = faults(text)
    return fault


def test_each_source_wins_over_those_before_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [("default", "built-in")]
    seen = [(default_vault(), str(load_settings().origin_of("general.vault")))]
    for where, name in [
        ("system", "from-etc"),
        ("conf.d/20-a", "from-conf-d-20"),
        ("conf.d/10-b", "from-conf-d-10"),
        ("user", "from-user"),
        ("named", "from-named"),
    ]:
        path = write(where, general(name))
        if where != "conf.d/10-b":  # it stands before 20, whenever it was written
            expected.append((name, f"{path}:3"))
            seen.append((default_vault(), str(load_settings().origin_of("general.vault"))))
    monkeypatch.setenv("BLOCKVAULT_VAULT", "from-environment")
    seen.append((default_vault(), str(load_settings().origin_of("general.vault"))))
    settings = load_settings({"general.vault": ("--vault", "from-flag")})
    seen.append((settings.general.vault, str(settings.origin_of("general.vault"))))
    expected += [("from-environment", "$BLOCKVAULT_VAULT"), ("from-flag", "--vault")]
    assert seen == expected


def test_files_win_key_by_key(write: Write) -> None:
    write("system", 'version = 1\n[daemon]\ncaptures = 5\ntransfers = 3\n[vault.site]\npath = "/a"\nkey_file = "/k"\n')
    write("user", 'version = 1\n[daemon]\ntransfers = 4\n[vault.site]\npath = "/b"\n')
    settings = load_settings()
    assert (settings.daemon.captures, settings.daemon.transfers) == (5, 4)
    assert (settings.vault("site").path, settings.vault("site").key_file) == ("/b", "/k")
    assert settings.vault("other").path == ""
    assert [os.path.basename(os.path.dirname(path)) for path in settings.files] == ["etc", "blockvault"]


def test_a_channel_of_a_later_file_takes_the_place_of_that_name(write: Write) -> None:
    channel = '[[notify]]\nname = "{}"\nkind = "{}"\n'
    write("system", "version = 1\n" + channel.format("ops", "ping") + channel.format("mail", "smtp"))
    path = write("user", "version = 1\n" + channel.format("ops", "webhook"))
    settings = load_settings()
    assert [(each.name, each.kind) for each in settings.notify] == [("ops", "webhook"), ("mail", "smtp")]
    assert str(settings.origin_of("notify.ops")) == f"{path}:2"


def test_a_folder_of_its_own_is_read_instead_of_the_systems_and_the_users(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("system", general("from-etc"))
    write("user", general("from-user"))
    monkeypatch.setenv("BLOCKVAULT_CONFIG_DIR", str(tmp_path / "own"))
    assert [file.path for file in config_files()] == [str(tmp_path / "own/config.toml")]
    assert default_vault() == "default"


def test_every_scalar_setting_has_its_environment_variable(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, tuple[str, Any]] = {
        "general.state_dir": ("/elsewhere", "/elsewhere"),
        "general.color": ("never", "never"),
        "daemon.captures": ("7", 7),
        "daemon.verify_budget": ("90m", 5400),
        "daemon.io_priority": ("idle", "idle"),
        "alerts.rpo_factor": ("1.5", 1.5),
    }
    for name, (text, _) in given.items():
        monkeypatch.setenv(environment_name(name), text)
    shown = load_settings().shown()
    assert {name: shown[name] for name in given} == {name: value for name, (_, value) in given.items()}
    assert default_state_dir() == "/elsewhere"
    monkeypatch.setenv("BLOCKVAULT_DAEMON_CAPTURES", "several")
    with pytest.raises(InvalidInputError, match=r"\$BLOCKVAULT_DAEMON_CAPTURES: daemon.captures cannot be 'several'"):
        load_settings()


def test_a_state_folder_in_the_environment_may_be_relative(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKVAULT_STATE_DIR", "here")
    assert default_state_dir() == os.path.abspath("here")


def test_where_a_vault_lies(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("system", 'version = 1\n[general]\nstate_dir = "/state"\n[vault.site]\npath = "/srv/site"\n')
    assert vault_path("site") == "/srv/site"
    assert vault_path("other") == "/state/vaults/other"
    assert vault_path("site", "/world") == "/world/vaults/site"  # a world of its own
    assert vault_path("/some/folder", "/world") == "/some/folder"


BAD: list[tuple[str, str, int, str]] = [
    ("version = 1\n[general]\nvalt = 'x'\n", "config.unknown-key", 3, "did you mean 'vault'?"),
    ("version = 1\n\n[generl]\nvault = 'x'\n", "config.unknown-key", 3, "did you mean 'general'?"),
    ("version = 1\n[items.web]\na = 1\n", "config.unknown-key", 2, "use `blockvault item set`"),
    ("version = 1\n[vault.site]\npasword = 'x'\npassword = 'x'\n", "config.unknown-key", 3, "there are: path"),
    ("version = 1\n[daemon]\ncaptures = '2'\n", "config.wrong-type", 3, "correct it"),
    ("version = 1\n[daemon]\ncaptures = true\n", "config.wrong-type", 3, "correct it"),
    ("version = 1\n[daemon]\n# two\n\ncaptures = 0\n", "config.bad-value", 5, "correct it"),
    ("version = 1\n[daemon]\nretry_first = '1 fortnight'\n", "config.bad-value", 3, "correct it"),
    ("version = 1\n[alerts]\nrpo_factor = nan\n", "config.bad-value", 3, "correct it"),
    (f"version = 1\n[alerts]\nrpo_factor = 1{'0' * 400}\n", "config.bad-value", 3, "correct it"),
    (f"version = 1\n[daemon]\nretry_first = '1{'0' * 400}d'\n", "config.bad-value", 3, "correct it"),
    ("version = 1\n[general]\nstate_dir = 'relative'\n", "config.bad-value", 3, "correct it"),
    ("version = 1\n[general]\nvault = 'a_b'\n", "config.bad-value", 3, "correct it"),
    ("version = 1\ngeneral = 3\n", "config.wrong-type", 2, "write [general]"),
    ("version = 1\n[vault]\n'a b' = {path = '/x'}\n", "config.bad-name", 3, "write [vault.NAME]"),
    ("version = 1\n[daemon]\nbandwidth = 3\n", "config.wrong-type", 3, "see docs"),
    (
        "version = 1\n[daemon]\nbandwidth = [\n{from='08:00', to='18:00', limit='1M'},\n{from='8:00', limit='1M'}]\n",
        "config.bad-value",
        3,
        "correct it",
    ),
    (
        "version = 1\n[daemon]\nbandwidth = [{from='08:00', to='08:00', limit='1M'}]\n",
        "config.bad-value",
        3,
        "",
    ),
    (
        "version = 1\n[daemon]\nbandwidth = [{from='08:00', to='09:00', limit='1M', zone='Mars/Olympus'}]\n",
        "config.bad-value",
        3,
        "correct it",
    ),
    ("version = 1\n[[notify]]\nname = 'a'\n", "config.missing-key", 2, "add: kind"),
    (
        "version = 1\n[[notify]]\nname = 'a'\nkind = 'ping'\n[[notify]]\nname = 'a'\nkind = 'ping'\n",
        "config.bad-value",
        5,
        "rename one",
    ),
    ("[general]\nvault = 'site'\n", "config.version", 1, "add the line: version = 1"),
    ("version = '1'\n", "config.version", 1, "write: version = 1"),
    ("version = 1\n[general]\nvault = site\n", "config.syntax", 3, "text stands in quotes"),
    ("version = 1\n[general", "config.syntax", 2, "text stands in quotes"),
]


@pytest.mark.parametrize(
    ("text", "kind", "line", "do"), BAD, ids=[f"{kind}-{n}" for n, (_, kind, _, _) in enumerate(BAD)]
)
def test_what_is_wrong_is_told_with_its_line(text: str, kind: str, line: int, do: str) -> None:
    fault = faults(text)[0]
    assert fault.kind == kind
    assert fault.message.startswith(f"/c.toml:{line}: ")
    assert (fault.do or "").startswith(do)


def test_a_number_that_is_too_long_to_be_read() -> None:
    fault = only_fault(f"version = 1\n[alerts]\nfree_days = 1{'0' * 5000}\n")
    assert (fault.kind, fault.message) == ("config.syntax", "/c.toml: this is not TOML")


def test_a_secret_in_a_file_is_refused_and_not_repeated() -> None:
    fault = only_fault("version = 1\n[[notify]]\nname = 'a'\nkind = 'smtp'\npassword = 'hunter2'\n")
    assert fault.kind == "config.unknown-key"
    assert "secret_file" in str(fault.do)
    told = only_fault("version = 1\n[vault.site]\nproxy = 7\n")
    assert "7" not in f"{told.message}{told.why}{told.do}".replace("/c.toml", "")


def test_a_newer_version_is_not_guessed_at() -> None:
    assert isinstance(only_fault("version = 2\n"), UnsupportedError)


def test_all_faults_are_told_and_the_first_is_raised(write: Write) -> None:
    path = write("system", "[daemon]\ncaptures = 0\ntransfer = 1\n")
    assert [fault.kind for fault in check_file(str(path))] == [
        "config.version",
        "config.bad-value",
        "config.unknown-key",
    ]
    with pytest.raises(InvalidInputError) as raised:
        load_settings()
    assert "shows all 3 faults" in str(raised.value.do)


def test_a_named_file_must_be_there(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLOCKVAULT_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(InvalidInputError) as raised:
        load_settings()
    assert raised.value.kind == "config.not-found"


def test_a_file_that_cannot_be_read_is_not_passed_over(write: Write) -> None:
    path = write("system", general("site"))
    path.unlink()
    path.mkdir()  # root reads whatever its mode is
    with pytest.raises(DeviceError) as raised:
        load_settings()
    assert raised.value.kind == "config.unreadable"


def test_a_file_that_is_too_large_or_no_text(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"version = 1\n" + b"#" * (1 << 20))
    assert [fault.kind for fault in check_file(str(path))] == ["config.too-large"]
    path.write_bytes(b"version = 1\n# \xff\n")
    (fault,) = check_file(str(path))
    assert (fault.kind, fault.message.split(": ")[0]) == ("config.syntax", f"{path}:2")


def test_the_first_wait_is_not_the_longest(write: Write) -> None:
    write("system", "version = 1\n[daemon]\nretry_first = '2h'\n")
    with pytest.raises(InvalidInputError, match="retry_first is longer"):
        load_settings()


def test_the_lowest_bandwidth_that_applies_counts() -> None:
    rules = (
        BandwidthRule(begin=8 * 60, end=18 * 60, limit=20, zone="Europe/Berlin"),
        BandwidthRule(begin=22 * 60, end=6 * 60, limit=90, zone="UTC"),
        BandwidthRule(begin=17 * 60, end=24 * 60, limit=10, zone="Europe/Berlin"),
    )
    daemon = SECTIONS["daemon"](bandwidth=rules)

    def limit(text: str) -> int | None:
        found: int | None = daemon.bandwidth_limit(datetime.fromisoformat(text))
        return found

    winter = [limit(f"2026-01-15T{clock}+00:00") for clock in ("06:59", "07:00", "15:59", "16:00", "17:30", "22:30")]
    assert winter == [None, 20, 20, 10, 10, 10]
    assert limit("2026-01-15T23:30+00:00") == 90
    assert limit("2026-07-15T06:00+00:00") == 20  # summer time
    assert limit("2026-01-15T05:59+00:00") == 90


def test_secrets_are_not_shown(write: Write) -> None:
    write(
        "system",
        "version = 1\n[[notify]]\nname = 'a'\nkind = 'webhook'\nurl = 'https://h/hush'\n[vault.v1]\nproxy = 'http://u:hush@p'\n",
    )
    for as_text in (False, True):
        shown = load_settings().shown(as_text=as_text)
        assert shown["notify.a"]["url"] == shown["vault.v1.proxy"] == "***"
        assert "hush" not in str(shown)


def test_the_document_tells_every_setting_and_what_is_built_in() -> None:
    text = (REPOSITORY / "docs/configuration.md").read_text()
    told = dict(re.findall(r"^\| `([a-z_.]+)` \|([^|]*)\|", text, re.MULTILINE))
    expected = {f"{section}.{key}" for section, table in SECTIONS.items() for key in keys_of(table)} | {
        "daemon.bandwidth"
    }
    expected |= {f"{name}.{key}" for name, table in NAMED.items() for key in keys_of(table)}
    expected |= {f"notify.{key}" for key in keys_of(Channel)}
    assert set(told) == expected
    for name, value in Settings().shown(as_text=True).items():
        if name != "general.state_dir":
            built_in = "[]" if value == [] else value
            assert told[name].strip().strip("`") == ("" if built_in == "-" else built_in)


def test_lines_of_every_kind_of_statement() -> None:
    text = (
        "# comment\nversion = 1 # [not] = a table\n\n[ general ]\nvault = '''\n[x]\na = 1\n'''\ncolor = \"[\\\"]\"\n"
        "[daemon]\nbandwidth = [ # list\n  {from = ']'},\n]\ncaptures = 2\r\n[[notify]]\nname = 1\n[[notify]]\n"
        'name."a.b" = """\n= \\""""""\nkind = 2\n[vault.\'x.y\']\npath = 1\n'
    )
    lines = key_lines(text)
    assert lines == {
        ("version",): 2,
        ("general",): 4,
        ("general", "vault"): 5,
        ("general", "color"): 9,
        ("daemon",): 10,
        ("daemon", "bandwidth"): 11,
        ("daemon", "captures"): 14,
        ("notify",): 15,
        ("notify", 0): 15,
        ("notify", 0, "name"): 16,
        ("notify", 1): 17,
        ("notify", 1, "name"): 18,
        ("notify", 1, "name", "a.b"): 18,
        ("notify", 1, "kind"): 20,
        ("vault",): 21,
        ("vault", "x.y"): 21,
        ("vault", "x.y", "path"): 22,
    }
    assert line_of(lines, ("daemon", "bandwidth", 0, "from")) == 11
    assert line_of(lines, ("elsewhere",)) == 1


VALUES = st.sampled_from(
    ['"]"', "'#'", '"""\n[a]\n\\""""', "'''\nx = 1\n'''", "[\n1, # ]\n2]", '{a = "}"}', "1979-05-27"]
)
KEYS = st.sampled_from(["a", "b-c", '"d e"', "'f#'", "g.h", 'i . "j\\"k"'])


@given(st.lists(st.tuples(KEYS, VALUES, st.sampled_from(["", " # = [x]", "\r"])), max_size=8))
def test_the_lines_of_a_document_that_was_put_together(statements: list[tuple[str, str, str]]) -> None:
    text, expected = "", []
    for index, (key, value, after) in enumerate(statements):
        text += f"[t{index}]\n"
        expected.append(text.count("\n") + 1)
        text += f"{key} = {value}{after}\n"
    lines = key_lines(text)
    for index, line in enumerate(expected):
        assert {found for path, found in lines.items() if path[0] == f"t{index}" and len(path) > 1} == {line}


@given(
    st.text(max_size=80)
    | st.lists(
        st.sampled_from(["[", "]", "=", '"', "'", "\\", "\n", "version", "1", "#", "{", "}", "general", ".", " "]),
        max_size=30,
    ).map("".join)
)
def test_no_text_makes_it_stumble(text: str) -> None:
    for fault in faults(text):
        assert fault.kind.startswith("config.")
