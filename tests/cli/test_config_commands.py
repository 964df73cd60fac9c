"""`config show|validate|path`, and that vault, state folder, colour and key file go by the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.program import Program

pytestmark = pytest.mark.no_bytes


@pytest.fixture
def configured(program: Program) -> Program:
    configure(program, "[general]\nvault = 'site'\n[vault.site]\n" + f"path = '{program.folder}/elsewhere'\n")
    return program


def configure(program: Program, text: str) -> Path:
    program.config.mkdir(exist_ok=True)
    path = program.config / "config.toml"
    path.write_text("version = 1\n" + text)
    return path


def test_a_vault_lies_where_the_configuration_says(configured: Program, disk: Path) -> None:
    program = configured
    assert program.run("snapshot", disk).kind == "vault.not-found"  # only the default vault is made by itself
    assert program.run("vault", "create", "site", "--no-encryption", "--path", "/tmp/x").kind == "vault.name-taken"
    program.run("vault", "create", "site", "--no-encryption", code=0)
    assert (program.folder / "elsewhere/vault.json").exists()
    assert not (program.state / "vaults").exists()
    ended = program.run("snapshot", disk, code=0)
    assert "blockvault restore --point 1 --vault site" in ended.out
    assert [point["item"] for point in program.run("points", "--json", code=0).document["points"]] == ["disk"]
    (known,) = program.run("vault", "list", "--json", code=0).document["vaults"]
    assert (known["name"], known["path"]) == ("site", f"{program.folder}/elsewhere")
    assert program.run("points", "--vault", "other").kind == "vault.not-found"
    assert program.run("points", env={"BLOCKVAULT_VAULT": "other"}).kind == "vault.not-found"


def test_a_dry_run_of_the_first_point_makes_nothing_where_the_configuration_points(
    program: Program, disk: Path
) -> None:
    configure(program, f"[vault.default]\npath = '{program.folder}/elsewhere'\n")
    program.run("snapshot", disk, "--dry-run", code=0)
    assert not (program.folder / "elsewhere").exists()
    program.run("snapshot", disk, code=0)
    assert (program.folder / "elsewhere/vault.json").exists()


def test_the_state_folder_goes_by_the_configuration(program: Program, disk: Path) -> None:
    configure(program, f"[general]\nstate_dir = '{program.folder}/there'\n")
    program.run("snapshot", disk, env={"BLOCKVAULT_STATE_DIR": ""}, code=0)
    assert (program.folder / "there/vaults/default/vault.json").exists()
    assert not program.state.exists()


def test_a_key_file_of_a_vault_opens_it_after_all_other_secrets(program: Program, disk: Path) -> None:
    key = program.folder / "key"
    key.write_bytes(b"k" * 32)
    configure(program, f"[vault.default]\nkey_file = '{key}'\n")
    assert "(encrypted)" in program.run("snapshot", disk, code=0).err
    program.run("points", code=0)
    assert program.run("points", env={"BLOCKVAULT_PASSWORD": "other"}, code=12).kind == "key.wrong"


def test_colour_goes_by_the_configuration(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    configure(program, "[general]\ncolor = 'always'\n")
    assert "\x1b[" in program.run("item", "show", "disk", code=0).out
    assert "\x1b[" not in program.run("item", "show", "disk", "--color", "never", code=0).out
    assert "\x1b[" not in program.run("item", "show", "disk", env={"BLOCKVAULT_COLOR": "never"}, code=0).out


def test_a_fault_stops_what_needs_the_configuration_and_nothing_else(program: Program, disk: Path) -> None:
    path = configure(program, "[general]\nvalt = 'site'\n")
    ended = program.run("snapshot", disk, code=2)
    assert ended.err == (
        f"error: {path}:3: there is no setting 'valt' in [general]   [config.unknown-key]\n"
        "why:   a setting that is misspelled would be ignored, so it is an error\n"
        "do:    did you mean 'vault'?\n"
    )
    assert not program.state.exists()
    program.run("version", code=0)
    program.run("--help", code=0)
    checks = program.run("doctor", "--json", code=1).document["findings"]
    assert [(each["check"], each["level"]) for each in checks][-1] == ("configuration", "fail")
    program.run("config", "path", code=0)


def test_config_show_tells_values_and_origins(configured: Program) -> None:
    own = configured.folder / "own.toml"
    own.write_text("version = 1\n[daemon]\ncaptures = 9\n")
    arguments = ("config", "show", "--origin", "--json", "--config", "own.toml", "--color", "never")
    shown = configured.run(*arguments, env={"BLOCKVAULT_DAEMON_TRANSFERS": "3"}, code=0).document
    assert shown["schema"] == "blockvault.config/1"
    assert shown["files"] == [f"{configured.config}/config.toml", str(own)]
    found = {
        name: (shown["settings"][name], shown["origins"][name]["source"], shown["origins"][name]["line"])
        for name in ("general.vault", "general.color", "daemon.captures", "daemon.transfers", "daemon.history_days")
    }
    assert found == {
        "general.vault": ("site", f"{configured.config}/config.toml", 3),
        "general.color": ("never", "--color", None),
        "daemon.captures": (9, str(own), 3),
        "daemon.transfers": (3, "$BLOCKVAULT_DAEMON_TRANSFERS", None),
        "daemon.history_days": (400, "built-in", None),
    }
    text = configured.run("config", "show", "--origin", code=0).out
    assert f"general.vault             site{' ' * 7}" in text.replace(str(configured.config), "")
    assert "origins" not in configured.run("config", "show", "--json", code=0).document


def test_config_validate_tells_all_faults(program: Program) -> None:
    assert "no configuration file" in program.run("config", "validate", code=0).err
    path = configure(program, "[daemon]\ncaptures = 2\n")
    assert program.run("config", "validate", code=0).out == f"{path}: good\n"
    configure(program, "[daemon]\ncaptures = 0\ntransfer = 2\n")
    ended = program.run("config", "validate", code=2)
    assert (ended.err.count("error:"), ended.out) == (2, "")
    (file,) = program.run("config", "validate", "--json", code=2).document["files"]
    assert (file["file"], file["good"]) == (str(path), False)
    assert [fault["kind"] for fault in file["faults"]] == ["config.bad-value", "config.unknown-key"]
    good = program.folder / "good.toml"
    good.write_text("version = 1\n")
    assert program.run("config", "validate", good, code=0).out == f"{good}: good\n"
    assert program.run("config", "validate", "missing.toml", code=2).kind == "config.not-found"


def test_config_validate_tells_what_the_files_come_to_together(program: Program) -> None:
    configure(program, "[daemon]\nretry_limit = '1m'\n")
    ended = program.run("config", "validate", env={"BLOCKVAULT_DAEMON_RETRY_FIRST": "2m"}, code=2)
    assert "retry_first is longer" in ended.err


def test_config_path_tells_the_order(configured: Program) -> None:
    (configured.config / "conf.d").mkdir()
    for name in ("20-b.toml", "10-a.toml", "note.txt"):
        (configured.config / "conf.d" / name).write_text("version = 1\n")
    files = configured.run("config", "path", "--json", "--config", "own.toml", code=0).document["files"]
    top = str(configured.config)
    assert files == [
        {"file": f"{top}/config.toml", "kind": "system", "present": True},
        {"file": f"{top}/conf.d/10-a.toml", "kind": "system", "present": True},
        {"file": f"{top}/conf.d/20-b.toml", "kind": "system", "present": True},
        {"file": f"{configured.folder}/own.toml", "kind": "named", "present": False},
    ]
    assert "config.toml" in configured.run("config", "path", code=0).out
