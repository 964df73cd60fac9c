"""R12: a number, once given, is never given again: not after failures, losses, copies, or to two processes at once."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import forge
from helpers.children import ForkServer
from helpers.files import copy_tree, noise, write_at
from helpers.site import CHUNK, Site

from blockvault.errors import CancelledError, DeviceError
from blockvault.failpoints import Hook
from blockvault.monitor import Monitor
from blockvault.vault import Vault

SetHook = Callable[[Hook | None], None]


def new_image(site: Site, name: str = "disk", seed: int = 1) -> Path:
    image = site.root / f"{name}.img"
    image.write_bytes(noise(4 * CHUNK, seed))
    return image


def refs(site: Site) -> list[tuple[str, int]]:
    """Every point record in the vault's folder, readable or not."""
    return [(path.parent.name, int(path.name)) for path in site.objects("points")]


def cancel_at(site: Site, image: Path, hook: SetHook, step: str) -> None:
    monitor = Monitor()
    hook(lambda name: monitor.cancel() if name == step else None)
    with pytest.raises(CancelledError):
        site.vault.snapshot([str(image)], keep=False, monitor=monitor)
    hook(None)


def test_not_after_jobs_that_failed(site: Site, hook: SetHook) -> None:
    image = new_image(site)
    site.take(image)
    for _ in range(3):
        cancel_at(site, image, hook, "transfer.packs")
    site.reopen()
    assert site.take(image).number == 5


def test_not_after_the_index_is_lost(site: Site, hook: SetHook) -> None:
    image = new_image(site)
    site.take(image)
    cancel_at(site, image, hook, "transfer.packs")
    site.lose_index()
    assert site.take(image).number == 3
    assert site.vault.origin == forge.point(site, 1).ref.origin


def test_not_after_the_hosts_state_is_lost(site: Site, hook: SetHook) -> None:
    """The number of the job that failed is gone with the state; so this is another origin, and above all it sees."""
    image = new_image(site)
    site.take(image)
    site.take(image)
    cancel_at(site, image, hook, "transfer.packs")
    first = site.vault.origin
    site.close()
    shutil.rmtree(site.host)
    result = site.take(image)
    assert site.vault.origin != first
    assert result.number == 3
    assert len(set(refs(site))) == 3
    parent = forge.point(site, result.number).parent
    assert parent is not None
    assert (parent.origin, parent.number) == (first, 2)


@pytest.mark.parametrize("seen", ["snapshot record", "mark", "damaged record"])
def test_above_everything_ever_seen(site: Site, seen: str) -> None:
    """A snapshot that was never transferred, a mark, a record that cannot be read: each has used its number."""
    image = new_image(site)
    site.take(image)
    origin = site.vault.origin
    site.close()
    if seen == "snapshot record":
        folder = site.host / "snapshots" / ("ab" * 16)
        folder.mkdir(parents=True)
        (folder / "41.json").write_bytes(b"{}")
    elif seen == "mark":
        folder = site.folder / "marks" / origin / f"{41:010d}"
        folder.mkdir(parents=True)
        (folder / "000001").write_bytes(b"torn")
    else:
        (site.folder / "points" / origin / f"{41:010d}").write_bytes(b"torn")
    for path in site.host.glob("host.json"):
        path.unlink()
    assert site.take(image).number == 42


@pytest.mark.parametrize("with_state", [False, True], ids=["vault-alone", "with-the-hosts-state"])
def test_not_in_a_copy_of_the_vault(site: Site, tmp_path: Path, with_state: bool) -> None:
    """Vault and copy both go on: no two points of one name come into being, whoever made them."""
    image = new_image(site)
    site.take(image)
    site.close()
    copied_state = tmp_path / "copied-state"
    if with_state:
        copy_tree(site.state, copied_state)
    else:
        copy_tree(site.folder, copied_state / "vaults" / "default")
        copied_state = site.state
    copy = (tmp_path / "copied-state" / "vaults" / "default").as_posix()
    made: list[tuple[str, int]] = []
    for turn in range(3):
        write_at(image, 0, noise(CHUNK, 10 + turn))
        with Vault.open(copy, state_dir=str(copied_state)) as vault:
            number = vault.snapshot([str(image)], keep=False).number
            made.append((vault.origin, number))
        with Vault.open(state_dir=str(site.state)) as vault:
            number = vault.snapshot([str(image)], keep=False).number
            made.append((vault.origin, number))
    assert len(set(made)) == len(made)
    ours = set(refs(site))
    theirs = {(path.parent.name, int(path.name)) for path in Path(copy, "points").rglob("*") if path.is_file()}
    assert len(ours & theirs) == 1, "only the point from before the copy is in both"


def test_not_in_a_vault_that_was_put_back(site: Site, tmp_path: Path) -> None:
    """The folder's newer points are gone: what the host remembers of them is not believed, nor their numbers used."""
    image = new_image(site)
    site.take(image)
    site.close()
    records = site.objects("points")
    write_at(image, 0, noise(CHUNK, 2))
    site.take(image)
    first = site.vault.origin
    site.close()
    for path in site.objects("points"):
        if path not in records:
            path.unlink()
    del site.copies["2"]
    result = site.take(image)
    assert site.vault.origin != first
    assert result.number == 3
    assert result.statistics.changed_chunks == 1
    for label, copy in list(site.copies.items()):
        if label == "1":
            (info,) = (info for info in site.vault.points() if info.number == 1)
            site.copies[info.label] = copy
            del site.copies["1"]
    site.sound()


def test_the_number_is_durable_before_it_is_used(site: Site, hook: SetHook) -> None:
    image = new_image(site)
    seen: list[int] = []

    def look(name: str) -> None:
        if name.startswith("transfer."):
            seen.append(json.loads((site.host / "host.json").read_bytes())["next_number"])

    hook(look)
    site.take(image)
    assert set(seen) == {2}


def test_a_state_whose_number_was_put_back_is_outdone_by_the_vault(site: Site) -> None:
    image = new_image(site)
    for _ in range(3):
        site.take(image)
    path = site.host / "host.json"
    site.close()
    state = json.loads(path.read_bytes())
    state["next_number"] = 1
    path.write_text(json.dumps(state))
    assert site.take(image).number == 4


MANY = """
def work(state, image, count):
    from blockvault.vault import Vault
    made = []
    with Vault.open_or_create(state_dir=state) as vault:
        for turn in range(count):
            with open(image, "r+b") as file:
                file.seek(16384 * (turn % 4))
                file.write(os.urandom(16384))
            made.append([vault.origin, vault.snapshot([image], keep=False).number])
    return made
import os
"""


def test_not_to_two_processes_at_once(site: Site) -> None:
    """Different items of one vault, at the same time: every job succeeds, every number is one job's."""
    images = [new_image(site, f"disk{i}", i) for i in range(3)]
    site.close()
    made: list[tuple[str, int]] = []
    problems: list[object] = []

    def run(image: Path) -> None:
        with ForkServer() as server:
            done = server.run(MANY, site.state, image, 6)
            if done["error"] or done["status"]:
                problems.append(done)
            made.extend((origin, number) for origin, number in done["answer"] or [])

    threads = [threading.Thread(target=run, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(made) == len(set(made)) == 18
    assert len({origin for origin, _ in made}) == 1, "one host is one origin"
    for image in images:
        newest = max(info.number for info in site.vault.points(image.stem))
        site.remember(str(newest))
        site.check(newest)
    assert site.vault.verify().damage == ()


def test_two_first_runs_make_one_vault(tmp_path: Path) -> None:
    """Two commands on a fresh machine: one makes the vault, the other uses it."""
    images = []
    for i in range(2):
        image = tmp_path / f"disk{i}.img"
        image.write_bytes(noise(4 * CHUNK, i))
        images.append(image)
    answers: list[dict[str, object]] = []

    def run(image: Path) -> None:
        with ForkServer() as server:
            answers.append(server.run(MANY, tmp_path / "state", image, 2))

    threads = [threading.Thread(target=run, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(answer["status"], answer["error"]) for answer in answers] == [(0, None)] * 2
    with Vault.open(state_dir=str(tmp_path / "state")) as vault:
        assert len(vault.points()) == 4
        assert len(vault.items()) == 2
        assert len({info.point.ref.origin for info in vault.points() if info.point}) == 1
        assert vault.verify().damage == ()


def test_a_second_capture_of_an_item_is_refused(site: Site, hook: SetHook) -> None:
    """Two captures of one item at once: one of them is told who is at work, and loses nothing."""
    image = new_image(site)
    site.take(image)
    site.close()
    refused: list[object] = []

    def second(name: str) -> None:
        if name == "transfer.packs":
            hook(None)
            with ForkServer() as server:
                refused.append(server.run(MANY, site.state, image, 1)["error"])

    hook(second)
    write_at(image, 0, noise(CHUNK, 2))
    with pytest.raises(DeviceError) as caught:
        site.vault.snapshot([str(image)], keep=False)
    assert caught.value.kind == "image.changed", "the child wrote to the image before it was refused"
    hook(None)
    assert refused == ["item.locked"]
    site.take(image)
    site.check(site.vault.points()[-1].label)
