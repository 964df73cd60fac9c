"""Encrypted vaults: where a passphrase may come from, and where it must never show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.program import Program

WORDS = "correct horse"
GIVEN = {"BLOCKVAULT_PASSWORD": WORDS}


@pytest.fixture
def encrypted(program: Program) -> Program:
    created = program.run("vault", "create", "safe", env=GIVEN, code=0)
    assert "keep the passphrase safe" in created.err
    assert WORDS not in created.out + created.err
    return program


def test_the_whole_way_through_an_encrypted_vault(encrypted: Program, disk: Path) -> None:
    encrypted.run("snapshot", disk, "--vault", "safe", "--no-keep", env=GIVEN, code=0)
    encrypted.run("restore", "--point", "1", "--vault", "safe", "-o", "back.img", env=GIVEN, code=0)
    assert (encrypted.folder / "back.img").read_bytes() == disk.read_bytes()
    marker = disk.read_bytes()[1 << 20 : (1 << 20) + 64]
    stored = b"".join(path.read_bytes() for path in (encrypted.state / "vaults" / "safe").rglob("*") if path.is_file())
    assert b"disk.img" not in stored
    assert not any(marker) or marker not in stored


def test_passphrase_from_a_file_and_from_a_program(encrypted: Program) -> None:
    secret = encrypted.folder / "secret"
    secret.write_text(WORDS + "\nsecond line\n")
    for given in (
        {"BLOCKVAULT_PASSWORD_FILE": str(secret)},
        {"BLOCKVAULT_PASSWORD_COMMAND": f"cat {secret}"},
        {"BLOCKVAULT_PASSWORD_COMMAND": f"echo '{WORDS}'"},
    ):
        shown = encrypted.run("vault", "show", "safe", "--json", env=given, code=0).document
        assert shown["encrypted"] is True


@pytest.mark.parametrize(
    ("given", "code", "kind"),
    [
        ({}, 12, "key.missing"),
        ({"BLOCKVAULT_PASSWORD": "wrong"}, 12, "key.wrong"),
        ({"BLOCKVAULT_PASSWORD": ""}, 2, "input.passphrase-empty"),
        ({"BLOCKVAULT_PASSWORD_FILE": "/no/such/file"}, 2, "input.key-file"),
        ({"BLOCKVAULT_PASSWORD_COMMAND": "false"}, 1, "input.passphrase-command"),
        ({"BLOCKVAULT_PASSWORD_COMMAND": "/no/such/program"}, 1, "input.passphrase-command"),
        ({"BLOCKVAULT_PASSWORD_COMMAND": "true"}, 2, "input.passphrase-empty"),
    ],
)
def test_what_does_not_open_it(encrypted: Program, given: dict[str, str], code: int, kind: str) -> None:
    ended = encrypted.run("points", "--vault", "safe", env=given, code=code)
    assert ended.kind == kind
    assert "wrong" not in ended.err.replace("key.wrong", "").replace("is wrong", "")


def test_a_key_file_instead_of_a_passphrase(program: Program, disk: Path) -> None:
    key = program.folder / "key"
    key.write_bytes(os.urandom(64))
    other = program.folder / "other"
    other.write_bytes(os.urandom(64))
    program.run("vault", "create", "keyed", "--key-file", key, code=0)
    program.run("snapshot", disk, "--vault", "keyed", "--key-file", key, "--no-keep", code=0)
    assert program.run("points", "--vault", "keyed", "--key-file", other, code=12).kind == "key.wrong"
    assert program.run("points", "--vault", "keyed", code=12).kind == "key.missing"
    assert program.run("points", "--vault", "keyed", "--key-file", "/no/such/file", code=2).kind == "input.key-file"


def test_without_a_terminal_a_new_vault_does_not_become_readable_by_accident(program: Program) -> None:
    assert program.run("vault", "create", "safe", code=12).kind == "key.missing"
    assert program.run("vault", "list", "--json", code=0).document["vaults"] == []


def test_a_passphrase_in_the_environment_encrypts_the_default_vault_too(program: Program, disk: Path) -> None:
    made = program.run("snapshot", disk, "--no-keep", env=GIVEN, code=0)
    assert "(encrypted)" in made.err
    assert program.run("points", code=12).kind == "key.missing"


def test_on_a_terminal_it_is_asked_for_twice_when_new_and_once_later(program: Program) -> None:
    code, shown = program.run_on_terminal("vault", "create", "safe", typed=f"{WORDS}\n{WORDS}\n")
    assert code == 0, shown
    assert shown.count("Passphrase") == 1
    assert "The same again" in shown
    assert WORDS not in shown
    code, shown = program.run_on_terminal("vault", "show", "safe", typed=f"{WORDS}\n")
    assert code == 0, shown
    assert WORDS not in shown
    code, shown = program.run_on_terminal("vault", "show", "safe", typed="wrong\n")
    assert code == 12, shown


def test_contradictions_are_usage_errors(program: Program) -> None:
    key = program.folder / "key"
    key.write_bytes(os.urandom(64))
    assert program.run("vault", "create", "odd", "--no-encryption", "--key-file", key, code=2).kind == "input.usage"
