"""`blockvault vault key ...` as it is typed: outputs, prompts, refusals, and where the secrets come from."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from helpers.program import Ended, Program

from blockvault.credentials import secret_from_environment

WORDS, NEW = "correct horse", "battery staple"
GIVEN = {"BLOCKVAULT_PASSWORD": WORDS}
BOTH = {**GIVEN, "BLOCKVAULT_NEW_PASSWORD": NEW}
AFTER = {"BLOCKVAULT_PASSWORD": NEW}


@pytest.fixture
def safe(program: Program) -> Program:
    """A program whose vault `safe` opens with WORDS."""
    program.run("vault", "create", "safe", env=GIVEN, code=0)
    return program


def key(program: Program, *words: str | Path, code: int = 0, env: dict[str, str] | None = None) -> Ended:
    return program.run("vault", "key", *words, "--vault", "safe", env=GIVEN if env is None else env, code=code)


def test_a_passphrase_is_added_and_the_first_removed(safe: Program, disk: Path) -> None:
    safe.run("snapshot", disk, "--vault", "safe", "--no-keep", env=GIVEN, code=0)
    added = key(safe, "add", "--label", "laptop", "--json", env=BOTH).document
    assert added["schema"] == "blockvault.key/1"
    assert {name: added["key"][name] for name in ("slot", "kind", "label", "memory_kib", "passes", "lanes")} == {
        "slot": 1, "kind": "passphrase", "label": "laptop", "memory_kib": 65536, "passes": 3, "lanes": 4,
    }  # fmt: skip
    listed = key(safe, "list", "--json", env=AFTER).document
    assert (listed["schema"], listed["vault"], listed["epochs"]) == ("blockvault.keys/1", "safe", 1)
    assert [(slot["slot"], slot["label"], slot["opened"]) for slot in listed["slots"]] == [
        (0, "first", False),
        (1, "laptop", True),
    ]
    rows = [line.split() for line in key(safe, "list").out.splitlines()]
    assert rows[0][0] == "slot"
    assert [row[:4] for row in rows[1:]] == [
        ["0", "*", "passphrase", "first"],
        ["1", "passphrase", "laptop", rows[2][3]],
    ]
    assert "would be removed" in key(safe, "remove", "0", "--dry-run").out
    assert key(safe, "remove", "0", code=2).kind == "input.needs-yes"
    assert key(safe, "remove", "0", "--yes", "--json").document["key"]["label"] == "first"
    assert key(safe, "list", code=12).kind == "key.wrong"
    assert key(safe, "remove", "1", "--yes", code=2, env=AFTER).kind == "key.last-slot"
    safe.run("restore", "--point", "1", "--vault", "safe", "-o", "back.img", env=AFTER, code=0)
    assert (safe.folder / "back.img").read_bytes() == disk.read_bytes()


def test_a_data_key_is_begun_and_a_slot_replaced(safe: Program) -> None:
    told = key(safe, "rotate", "--json").document
    assert (told["schema"], told["epochs"]) == ("blockvault.key-epochs/1", 2)
    assert "data keys  3" in key(safe, "rotate").out
    assert "takes the place of slot 0" in key(safe, "rotate", "--slot", "0", env=BOTH).out
    assert key(safe, "list", code=12).kind == "key.wrong"
    [slot] = key(safe, "list", "--json", env=AFTER).document["slots"]
    assert (slot["slot"], slot["label"]) == (1, "first")


def test_the_paper_key_brings_back_who_lost_passphrase_and_slots(safe: Program, disk: Path) -> None:
    safe.run("snapshot", disk, "--vault", "safe", "--no-keep", env=GIVEN, code=0)
    assert key(safe, "export", code=2).kind == "input.needs-yes"
    sheet = key(safe, "export", "--yes").out
    told = key(safe, "export", "--yes", "--json").document
    assert told["schema"] == "blockvault.paper-key/1"
    assert all(f"{number}  {line}" in sheet for number, line in enumerate(told["lines"], 1))
    assert told["id"] in sheet
    paper = safe.folder / "paper"
    written = key(safe, "export", "--yes", "-o", "paper", "--json")
    assert "lines" not in written.document
    assert paper.read_text() == sheet
    assert stat.S_IMODE(paper.stat().st_mode) == 0o600
    for _ in range(2):
        assert key(safe, "export", "--yes", "-o", "paper", code=2).kind == "target.exists"
    assert paper.read_text() == sheet

    shutil.rmtree(safe.state / "vaults" / "safe" / "keys")
    assert key(safe, "list", code=4).kind == "key.slots-damaged"
    new = {"BLOCKVAULT_NEW_PASSWORD": NEW}
    assert key(safe, "import", "paper", "--label", "again", "--json", env=new).document["key"]["label"] == "again"
    safe.run("restore", "--point", "1", "--vault", "safe", "-o", "back.img", env=AFTER, code=0)
    assert (safe.folder / "back.img").read_bytes() == disk.read_bytes()
    process = safe.start("vault", "key", "import", "-", "--vault", "safe", env={**new, **GIVEN}, stdin=-1)
    _, err = process.communicate(("\n".join(f"{n} {line}" for n, line in enumerate(told["lines"], 1))).lower().encode())
    assert process.returncode == 0, err
    assert len(key(safe, "list", "--json", env=AFTER).document["slots"]) == 2


def test_a_mistyped_paper_key_and_one_of_another_vault(safe: Program) -> None:
    new = {"BLOCKVAULT_NEW_PASSWORD": NEW}
    sheet = key(safe, "export", "--yes").out
    paper = safe.folder / "paper"
    line = next(line for line in sheet.splitlines() if line.startswith("3  "))
    paper.write_text(sheet.replace(line, line[:-1] + ("2" if line[-1] != "2" else "3")))
    ended = key(safe, "import", "paper", env=new, code=2)
    assert ended.kind == "key.paper-typo"
    assert "line 3" in ended.err
    paper.write_text(sheet.replace(line + "\n", ""))
    assert key(safe, "import", "paper", env=new, code=2).kind == "key.paper-incomplete"
    assert key(safe, "import", "no-such-file", env=new, code=2).kind == "input.paper-key"
    safe.run("vault", "create", "other", env=GIVEN, code=0)
    paper.write_text(sheet)
    ended = safe.run("vault", "key", "import", "paper", "--vault", "other", env=new, code=12)
    assert ended.kind == "key.wrong"
    assert "another vault" in ended.err


def test_key_files(safe: Program) -> None:
    for name, size in (("one", 64), ("two", 32), ("short", 31)):
        (safe.folder / name).write_bytes(os.urandom(size))
    key(safe, "add", "--new-key-file", "one")
    plain: dict[str, str] = {}
    assert key(safe, "list", "--key-file", "one", "--json", env=plain).document["slots"][1]["kind"] == "key-file"
    key(safe, "rotate", "--slot", "1", "--new-key-file", "two", "--key-file", "one", "--label", "usb", env=plain)
    assert key(safe, "list", "--key-file", "one", code=12, env=plain).kind == "key.wrong"
    assert "usb" in key(safe, "list", "--key-file", "two", env=plain).out
    assert key(safe, "add", "--new-key-file", "short", code=2).kind == "key.file-short"
    assert key(safe, "add", "--new-key-file", "missing", code=2).kind == "input.key-file"
    created = safe.run("vault", "create", "weak", "--key-file", "short", code=2)
    assert created.kind == "key.file-short"


def test_bad_input(safe: Program) -> None:
    safe.run("vault", "create", "open", "--no-encryption", code=0)
    for words in (
        ("list",), ("add",), ("rotate",), ("rotate", "--slot", "0"), ("remove", "0", "--yes"), ("export", "--yes"),
    ):  # fmt: skip
        ended = safe.run("vault", "key", *words, "--vault", "open", code=2)
        assert ended.kind == "key.not-encrypted", words
        assert len(ended.err.splitlines()) == 3
    for words, code, kind in (
        (("add",), 12, "key.missing"),
        (("rotate", "--slot", "7"), 13, "key.slot-not-found"),
        (("remove", "7", "--yes"), 13, "key.slot-not-found"),
        (("remove", "x"), 2, "input.usage"),
        (("remove",), 2, "input.usage"),
        (("import",), 2, "input.usage"),
        (("rotate", "--label", "x"), 2, "input.usage"),
        (("rotate", "--new-key-file", "x"), 2, "input.usage"),
        (("ad",), 2, "input.usage"),
    ):
        assert key(safe, *words, code=code).kind == kind, words
    assert key(safe, "add", "--label", "x" * 201, code=2, env=BOTH).kind == "key.bad-label"
    assert len(key(safe, "list", "--json").document["slots"]) == 1


def test_a_damaged_slot_is_listed_and_told(safe: Program) -> None:
    key(safe, "add", env=BOTH)
    slot = safe.state / "vaults" / "safe" / "keys" / "0"
    slot.chmod(0o600)
    slot.write_bytes(slot.read_bytes().replace(b'"passes":3', b'"passes":4'))
    ended = key(safe, "list", "--json", env=AFTER, code=3)
    assert "check" in ended.documents[0]["slots"][0]["damage"]
    assert "keys/0 is damaged" in ended.err
    assert "damaged: keys/0" in key(safe, "list", code=12).err
    assert "keys/0" in safe.run("doctor", "--vault", "safe", env=AFTER).out
    key(safe, "remove", "0", "--yes", env=AFTER)
    key(safe, "list", env=AFTER)


def test_on_a_terminal_it_is_asked(safe: Program) -> None:
    code, shown = safe.run_on_terminal("vault", "key", "add", "--vault", "safe", typed=f"{WORDS}\n{NEW}\n{NEW}\n")
    assert code == 0, shown
    assert "New passphrase for the vault 'safe'" in shown
    assert "The same again" in shown
    assert WORDS not in shown
    assert NEW not in shown
    code, shown = safe.run_on_terminal("vault", "key", "remove", "0", "--vault", "safe", typed="n\n", env=AFTER)
    assert code == 130, shown
    assert len(key(safe, "list", "--json").document["slots"]) == 2
    code, shown = safe.run_on_terminal("vault", "key", "remove", "0", "--vault", "safe", typed="y\n", env=AFTER)
    assert code == 0, shown
    assert key(safe, "list", code=12).kind == "key.wrong"


# --- where secrets come from


def test_a_new_secret_from_a_file_and_from_a_program(safe: Program) -> None:
    secret = safe.folder / "new"
    secret.write_text(NEW + "\r\nmore\n")
    key(safe, "add", env={**GIVEN, "BLOCKVAULT_NEW_PASSWORD_FILE": "new"})
    key(safe, "list", env=AFTER)
    key(safe, "rotate", "--slot", "1", env={**GIVEN, "BLOCKVAULT_NEW_PASSWORD_COMMAND": "echo third one"})
    key(safe, "list", env={"BLOCKVAULT_PASSWORD": "third one"})
    for variable, value, kind in (
        ("BLOCKVAULT_NEW_PASSWORD", "", "input.passphrase-empty"),
        ("BLOCKVAULT_NEW_PASSWORD_FILE", "/no/such", "input.key-file"),
        ("BLOCKVAULT_NEW_PASSWORD_FILE", "/dev/zero", "input.key-file"),
        ("BLOCKVAULT_NEW_PASSWORD_COMMAND", "'unclosed", "input.passphrase-command"),
    ):
        ended = safe.run("vault", "key", "add", "--vault", "safe", env={**GIVEN, variable: value})
        assert ended.kind == kind
        assert "BLOCKVAULT_NEW" in ended.err or "/" in ended.err


def test_systemd_credentials(safe: Program) -> None:
    folder = safe.folder / "credentials"
    folder.mkdir()
    given = {"CREDENTIALS_DIRECTORY": str(folder)}
    assert key(safe, "list", code=12, env=given).kind == "key.missing"
    (folder / "blockvault.password").write_text("of no use here\n")
    assert key(safe, "list", code=12, env=given).kind == "key.wrong"
    (folder / "blockvault.safe.password").write_text(WORDS + "\n")
    key(safe, "list", env=given)
    by_folder = str(safe.state / "vaults" / "safe") + "/"
    safe.run("vault", "key", "list", "--vault", by_folder, env=given, code=0)
    assert key(safe, "add", code=12, env=given).kind == "key.missing"
    (folder / "blockvault.new-password").write_text(NEW)
    key(safe, "add", env=given)
    key(safe, "list", env=AFTER)
    (folder / "blockvault.second.password").write_text("a second passphrase")
    safe.run("vault", "create", "second", env=given, code=0)
    safe.run("vault", "show", "second", env={"BLOCKVAULT_PASSWORD": "a second passphrase"}, code=0)


def test_the_first_place_that_has_a_secret_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all places, each with a secret of its own: taken away one after the other, the next one decides."""
    monkeypatch.chdir(tmp_path)
    for name in ("key-file", "from-file", "blockvault.safe.password", "blockvault.password"):
        Path(name).write_text(name)
    for new in (False, True):
        what = "NEW_PASSWORD" if new else "PASSWORD"
        for name in ("blockvault.safe.new-password", "blockvault.new-password") if new else ():
            Path(name).write_text(name)
        monkeypatch.setenv(f"BLOCKVAULT_{what}", "from-variable")
        monkeypatch.setenv(f"BLOCKVAULT_{what}_FILE", "from-file")
        monkeypatch.setenv(f"BLOCKVAULT_{what}_COMMAND", "echo from-command")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        suffix = "new-password" if new else "password"

        def found(key_file: str | None = None, vault: str = "/vaults/safe/", new: bool = new) -> str:
            secret = secret_from_environment(key_file, vault, new=new)
            return "" if secret is None else (secret.passphrase or secret.key_file or b"").decode()

        assert found("key-file") == "key-file"
        assert found() == "from-variable"
        monkeypatch.delenv(f"BLOCKVAULT_{what}")
        assert found() == "from-file"
        monkeypatch.delenv(f"BLOCKVAULT_{what}_FILE")
        assert found() == "from-command"
        monkeypatch.delenv(f"BLOCKVAULT_{what}_COMMAND")
        assert found() == found(vault="safe") == f"blockvault.safe.{suffix}"
        assert found(vault="other") == f"blockvault.{suffix}"
        Path(f"blockvault.safe.{suffix}").unlink()
        assert found() == f"blockvault.{suffix}"
        Path(f"blockvault.{suffix}").unlink()
        assert found() == ""
