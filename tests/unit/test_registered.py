"""Which disks a host's vaults protect is known beside the vaults, brought up at every opening, and never in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.program import Program
from helpers.site import Site

from blockvault.store.registered import registered_items
from blockvault.vault import Vault


def disk(site: Site, name: str) -> str:
    path = site.root / name
    path.write_bytes(os.urandom(65536))
    return str(path)


def told(site: Site) -> dict[str, list[str]]:
    return {item.item: [disk.path for disk in item.disks] for item in registered_items(str(site.state))}


def test_it_follows_every_change_of_an_item(site: Site) -> None:
    first, second, third = (disk(site, name) for name in ("a.img", "b.img", "c.img"))
    site.vault.add_item("web", [first])
    assert told(site) == {"web": [first]}
    site.vault.snapshot([second], keep=False)
    assert told(site) == {"b": [second], "web": [first]}
    site.vault.set_item("web", new_name="db", add_disks=[third])
    assert told(site) == {"b": [second], "db": [first, third]}
    site.vault.remove_item("db")
    assert told(site) == {"b": [second]}
    assert registered_items(str(site.state), except_vault=site.vault.id) == []


@pytest.mark.parametrize("damage", [b"", b"{", b'{"vault": 1}', b"\xff\xfe", None])
def test_lost_or_damaged_it_is_made_anew(site: Site, damage: bytes | None) -> None:
    path = disk(site, "a.img")
    site.vault.add_item("web", [path])
    file = site.host / "items.json"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    assert told(site) == {}
    site.reopen()
    assert told(site) == {"web": [path]}


def test_an_item_of_another_process_is_taken_in_at_the_next_opening(site: Site) -> None:
    path = disk(site, "a.img")
    site.vault.add_item("web", [path])
    before = (site.host / "items.json").read_bytes()
    site.vault.set_item("web", new_name="db")
    site.close()
    (site.host / "items.json").write_bytes(before)  # killed before it was noted
    site.reopen()
    assert told(site) == {"db": [path]}


def test_a_vault_that_is_away_is_told_and_one_that_another_replaced_is_forgotten(site: Site) -> None:
    path = disk(site, "a.img")
    site.vault.add_item("web", [path])
    site.close()
    site.folder.rename(site.root / "away")
    (item,) = registered_items(str(site.state))
    assert (item.vault, item.vault_is_there) == ("default", False)
    Vault.create(state_dir=str(site.state)).close()
    assert registered_items(str(site.state)) == []
    shutil.rmtree(site.folder)
    (site.root / "away").rename(site.folder)
    (item,) = registered_items(str(site.state))
    assert item.vault_is_there


def test_where_the_state_cannot_be_written_the_vault_is_read_all_the_same(site: Site) -> None:
    site.vault.add_item("web", [disk(site, "a.img")])
    site.close()
    file = site.host / "items.json"
    file.unlink()
    file.mkdir()  # in its place nothing can be put
    assert [item.name for item in site.vault.items()] == ["web"]


def test_of_two_processes_that_register_one_disk_one_is_refused(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.run("vault", "create", "default", "--no-encryption", code=0)
    image = program.folder / "a.img"
    image.write_bytes(os.urandom(65536))
    os.link(image, program.folder / "b.img")
    started = [program.start("item", "add", name, f"{name}.img", stderr=subprocess.PIPE) for name in ("a", "b")]
    ended = [(process.communicate(timeout=120)[1].decode(), process.returncode) for process in started]
    assert sorted(code for _, code in ended) == [2, 3]  # 3: nothing that is known was found on it
    assert any("[item.disk-taken]" in text for text, _ in ended)
    assert len(program.run("item", "list", "--json", code=0).document["items"]) == 1
