"""What a stranger wrote into labels, comments and paths is shown on a terminal, and not obeyed by it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blockvault.cli.render import shown
from blockvault.format import records
from hostile.world import World

HARM = {
    "clears the screen": "\x1b[2J",
    "sets the title": "\x1b]0;owned\x07",
    "an escape of one byte": "\x9b31m",
    "the same, as bytes of a path": "\udcc2\udc9b31m",
    "turns the line": "\u202egnp.exe",
    "goes back": "safe\rdone\b\b",
    "a line of its own": "x\nerror: all is well",
    "beyond UTF-8": "\udcff\udc9b",
    "ends the text": "\0",
    "next line": "\x85\u2028\u2029",
}
# What the program itself says to a terminal: colours, and how rich draws its bars.
OWN = re.compile(rb"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\r?\x1b\[2K|\x1b\[1?A|\r\n")


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_what_a_terminal_obeys_is_written_out(harm: str) -> None:
    said = shown(f"a{harm}b").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    assert not any(c < " " or "\x7f" <= c <= "\x9f" or c in "\u202e\u2028\u2029" for c in said), ascii(said)
    assert said.startswith("a")
    assert said.endswith("b")


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("web01: before the update, 50 % done", "Grüße, 日本語, עברית, ✓", "tab\there", "/srv/\udcff.img"):
        assert shown(text) == text


def forged(world: World, vault: Path) -> None:
    """Every text that is free to choose, of point, item and origin, with all the harm there is."""
    harm = "".join(HARM.values())
    for name in world.named("points"):
        body = records.decode(name, world.take_apart(name).plain, records.PointBody)
        disks = [msgspec.structs.replace(body.disks[0], path=harm)]
        changed = msgspec.structs.replace(body, disks=disks, comment=harm, audit=harm, tags={harm: harm})
        world.put(vault, name, world.seal(name, records.encode(changed)))
    for name in world.named("items"):
        item = records.decode(name, world.take_apart(name).plain, records.ItemBody)
        disk = [(item.disks[0][0], harm)]
        changed_item = msgspec.structs.replace(item, disks=disk, comment=harm, snapshot_dir=harm)
        world.put(vault, name, world.seal(name, records.encode(changed_item)))
    for name in world.named("policies"):
        policy = records.decode(name, world.take_apart(name).plain, records.PolicyBody)
        changed_policy = msgspec.structs.replace(policy, comment=harm, by=harm, note=harm)
        world.put(vault, name, world.seal(name, records.encode(changed_policy)))
    for name in world.named("origins"):
        origin = records.decode(name, world.take_apart(name).plain, records.OriginBody)
        world.put(vault, name, world.seal(name, records.encode(msgspec.structs.replace(origin, label=harm))))


def on_terminal(*words: str, env: dict[str, str]) -> bytes:
    """What a terminal receives from a command, both of its outputs."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "blockvault", *words], stdin=slave, stdout=slave, stderr=slave, env=env
    ) as process:
        os.close(slave)
        said = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the last one hung up
                break
            if not part:
                break
            said += part
        os.close(master)
        process.wait(60)
    return said


def test_no_command_hands_it_to_the_terminal(world: World, fast_path: Path) -> None:
    vault = world.copy(fast_path / "vault")
    forged(world, vault)
    item = records.decode("", world.take_apart(world.named("items")[0]).plain, records.ItemBody).name
    broken = vault / world.named("marks")[0]
    broken.unlink()
    broken.write_bytes(b"")
    env = {**os.environ, "BLOCKVAULT_STATE_DIR": str(fast_path / "state"), "TERM": "xterm", "COLUMNS": "200"}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    for words in (
        ["points"], ["point", "show", f"{item}@latest"], ["item", "show", item], ["item", "list"], ["vault", "show"],
        ["policy", "list"], ["policy", "show", "default"],
        ["verify"], ["usage"], ["point", "show", "77"], ["restore", "--point", f"{item}@latest", "-o", "/nowhere/x"],
    ):  # fmt: skip
        said = on_terminal(*words, "--vault", str(vault), env=env)
        assert said, words
        text = OWN.sub(lambda found: b"\n" if found[0] == b"\r\n" else b"", said).decode("utf-8", "replace")
        bad = [c for c in text if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" or c in "\u202e\u2028\u2029"]
        assert not bad, (words, bad, ascii(text)[:400])
        assert "\nerror: all is well" not in text


def test_json_has_it_whole_and_escaped(world: World, fast_path: Path) -> None:
    vault = world.copy(fast_path / "vault")
    forged(world, vault)
    env: dict[str, Any] = {**os.environ, "BLOCKVAULT_STATE_DIR": str(fast_path / "state")}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "blockvault", "points", "--json", "--vault", str(vault)]
    result = subprocess.run(command, capture_output=True, env=env, check=True)
    assert re.fullmatch(rb"[\n -~]*", result.stdout)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert "\\u001b[2J" in json.dumps(found)
