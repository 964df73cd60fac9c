"""A kill at every named step of every change of keys: the vault opens afterwards, and everything restores.

With the old secret, but where it was just given up: then with the new one. What is left half way is never a slot that
cannot be read.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.children import ForkServer, failpoint_names
from helpers.files import noise, write_at
from helpers.site import CHUNK, KEY_FILE, Site

from blockvault.clock import utc_now
from blockvault.errors import WrongKeyError
from blockvault.format.paper import read_paper
from blockvault.model import Secret

NEW = Secret(key_file=b"another key file, 32 bytes long.")
WORK = """
def work(state, old, new):
    with Vault.open(state_dir=state, secret=Secret({kind}=bytes.fromhex(old))) as opened:
        secret, now = Secret(key_file=bytes.fromhex(new)), utc_now()
        {change}
from blockvault.clock import utc_now
from blockvault.model import Secret
from blockvault.vault import Vault
"""
CHANGES = {
    "add": "opened.keys.add(secret, now=now)",
    "remove": "opened.keys.remove(max(slot.slot for slot in opened.keys.slots() if not slot.opened))",
    "replace": "opened.keys.replace(next(slot.slot for slot in opened.keys.slots() if slot.opened), secret, now=now)",
    "rotate": "opened.keys.rotate(now=now)",
    "import": "opened.keys.add(secret, now=now)",
}


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


class Keyed:
    """An encrypted vault with two points, brought into the state that a change begins from."""

    def __init__(self, root: Path, change: str) -> None:
        self.change = change
        self.site = Site(root, secret=KEY_FILE)
        self.image = root / "disk.img"
        self.image.write_bytes(noise(6 * CHUNK, 1))
        self.site.take(self.image)
        write_at(self.image, CHUNK, b"an edit")
        self.site.take(self.image)
        self.master = read_paper(self.site.vault.keys.export(now=utc_now()))

    def prepare(self) -> None:
        """One slot of the old secret; one more to be removed; none, where the paper key is to bring one."""
        site = self.site
        site.close()
        site.secret = Secret(master_key=self.master)
        keys = site.vault.keys
        made = keys.add(KEY_FILE, now=utc_now()).slot
        for slot in keys.slots():
            if slot.slot != made:
                keys.remove(slot.slot)
        if self.change == "remove":
            keys.add(NEW, now=utc_now())
        site.close()
        if self.change == "import":
            shutil.rmtree(site.folder / "keys")

    def run(self, children: ForkServer, spec: str | None) -> dict[str, object]:
        by_paper = self.change == "import"
        work = WORK.format(kind="master_key" if by_paper else "key_file", change=CHANGES[self.change])
        old, new = self.master if by_paper else KEY_FILE.key_file, NEW.key_file
        assert old is not None
        assert new is not None
        return children.run(work, self.site.state, old.hex(), new.hex(), spec=spec)

    def is_undone(self) -> bool:
        """Whether the change can be made once more; one that gave a slot up cannot be when the slot is gone."""
        if self.change == "replace":
            return self.opens(KEY_FILE)
        return self.change != "remove" or self.opens(NEW)

    def opens(self, secret: Secret) -> bool:
        self.site.close()
        self.site.secret = secret
        try:
            _ = self.site.vault
        except WrongKeyError:
            return False
        return True


@pytest.fixture(params=CHANGES)
def keyed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keyed]:
    made = Keyed(tmp_path / "site", request.param)
    yield made
    made.site.close()


@pytest.mark.slow
def test_a_kill_in_a_change_of_keys(children: ForkServer, keyed: Keyed) -> None:
    keyed.prepare()
    count = keyed.run(children, None)
    assert count["error"] is None
    reached = count["reached"]
    assert isinstance(reached, dict)
    assert any(name.startswith("key.") for name in reached)
    for name, visits in reached.items():
        for visit in range(1, visits + 1):
            where = f"killed at visit {visit} of {name}"
            keyed.prepare()
            died = keyed.run(children, f"{name}:kill:{visit}")
            assert died["status"] == -signal.SIGKILL, where
            check(keyed, where)
            if keyed.is_undone():
                again = keyed.run(children, None)
                assert (again["status"], again["error"]) == (0, None), where
                check(keyed, f"{where}, then done again")
    assert not list((keyed.site.folder / "tmp").glob("*"))


def check(keyed: Keyed, where: str) -> None:
    """Some secret that must open does, nothing half made is there, and all points restore."""
    if keyed.change == "import":
        must = [Secret(master_key=keyed.master)]
    elif keyed.change == "replace":
        must = [KEY_FILE if keyed.opens(KEY_FILE) else NEW]
    else:
        must = [KEY_FILE]
    for secret in must:
        assert keyed.opens(secret), where
        assert all(slot.damage is None for slot in keyed.site.vault.keys.slots()), where
        keyed.site.sound()


def test_every_step_of_a_change_is_reached_by_one_of_them(children: ForkServer, tmp_path: Path) -> None:
    reached: set[str] = set()
    for change in CHANGES:
        keyed = Keyed(tmp_path / change, change)
        keyed.prepare()
        found = keyed.run(children, None)["reached"]
        assert isinstance(found, dict)
        reached |= set(found)
        keyed.site.close()
    assert {name for name in failpoint_names() if name.startswith("key.")} <= reached
