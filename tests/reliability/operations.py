"""What is disturbed: a table with one entry a verb. A verb that the program does not have (yet) is left out by itself.

An entry prepares the world without disturbance and says which commands run then, and what they may make, move and
remove. To add a verb: a function that returns its commands, and a line in `OPERATIONS`.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blockvault.store.local import sync_folder
from reliability import runner
from reliability.world import Disks, World, digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A file that a command writes: first `before` (None: not there), after success `after`, in between one of them."""

    path: Path
    before: str | None
    after: str


@dataclass(frozen=True)
class Command:
    """One command line, and what the world may look like after it was disturbed, or must after it succeeded.

    `makes`: a new point of each of these items, with these disks. `moves`: points that must be in the vault on success.
    `may_remove`: points that may be gone. `makes_vault`: there is a vault on success.
    """

    argv: tuple[str, ...]
    makes: dict[str, Disks] = field(default_factory=dict)
    moves: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    may_remove: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Operation:
    """A row of the table. `needs`: the command that must exist; `begins`: a new world is made for it."""

    name: str
    prepare: Callable[[World], list[Command]]
    needs: tuple[str, ...]
    begins: bool = False
    weight: float = 1.0


def _snapshot(world: World, item: str, *options: str) -> Command:
    words = ["snapshot", *world.targets(item), *options]
    if len(world.images[item]) > 1:
        words += ["--name", item]
    return Command(world.argv(*words), makes={item: world.now(item)})


def _capture(world: World, item: str) -> str:
    """A snapshot that waits for its transfer; returns its label."""
    command = _snapshot(world, item, "--snapshot-only")
    order = runner.Order(command.argv, world.environment(), world.scratch)
    code = runner.wait(order.start())
    if code not in runner.GOOD:
        raise RuntimeError(f"{' '.join(command.argv)} ended with {code}:\n{order.output()}")
    label = str(json.loads(order.output().splitlines()[-1])["point"])
    world.remember(label, item, command.makes[item])
    return label


def first_with_vault(world: World) -> list[Command]:
    world.begin()
    return [_snapshot(world, "alpha")]


def first_of_item(world: World) -> list[Command]:
    return [_snapshot(world, world.new_item())]


def incremental(kind: str, *options: str, item: str = "alpha") -> Callable[[World], list[Command]]:
    def prepare(world: World) -> list[Command]:
        world.change(item, kind)
        return [_snapshot(world, item, *options)]

    return prepare


def transfer(world: World) -> list[Command]:
    """Two snapshots of one item and one of another wait."""
    labels = []
    for item in ("alpha", "beta", "alpha"):
        world.change(item, "random-pages")
        labels.append(_capture(world, item))
    return [Command(world.argv("transfer"), moves=tuple(labels))]


def two_at_once(world: World) -> list[Command]:
    for item, kind in (("alpha", "runs"), ("beta", "random-pages")):
        world.change(item, kind)
    return [_snapshot(world, "alpha"), _snapshot(world, "beta")]


def _restore(world: World, *, over: bool) -> list[Command]:
    label = world.rng.choice(world.labels())
    disk = world.rng.choice(list(world.points[label]))
    folder = world.root / "restored"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    sync_folder(str(world.root))
    path = folder / "disk.img"
    words = ["restore", "--point", label, "--disk", disk, "-o", str(path)]
    before = None
    if over:
        path.write_bytes(world.rng.randbytes(300_000))
        world.write(path, lambda fd: os.fchmod(fd, 0o600))
        sync_folder(str(folder))
        before = digest(path)
        words.append("--force")
    return [Command(world.argv(*words), targets=(Target(path, before, world.points[label][disk]),))]


def restore_new(world: World) -> list[Command]:
    return _restore(world, over=False)


def restore_over(world: World) -> list[Command]:
    return _restore(world, over=True)


def _deletes(world: World) -> list[Command]:
    label = world.labels()[len(world.points) // 2]
    return [Command(world.argv("point", "delete", label, "--yes"), may_remove=frozenset([label]))]


def _prune(*options: str) -> Callable[[World], list[Command]]:
    def prepare(world: World) -> list[Command]:
        newest = {world.labels(item)[-1] for item in world.images if world.labels(item)}
        rest = frozenset(world.labels()) - newest
        return [Command(world.argv("prune", "--keep-last", "3", *options, "--yes"), may_remove=rest)]

    return prepare


def plain(*words: str) -> Callable[[World], list[Command]]:
    """A command that makes and removes no points."""
    return lambda world: [Command(world.argv(*words))]


OPERATIONS: tuple[Operation, ...] = (
    Operation("vault and first point", first_with_vault, ("snapshot",), begins=True, weight=0.6),
    Operation("first point of an item", first_of_item, ("snapshot",), weight=0.5),
    Operation("incremental, random pages", incremental("random-pages"), ("snapshot",)),
    Operation("incremental, small edits", incremental("small-edits"), ("snapshot",)),
    Operation("incremental, disk grown", incremental("grow"), ("snapshot",)),
    Operation("incremental, disk shrunk", incremental("shrink"), ("snapshot",)),
    Operation("incremental, two disks", incremental("runs", item="beta"), ("snapshot",)),
    Operation("incremental, nothing kept", incremental("random-pages", "--no-keep"), ("snapshot",)),
    Operation("snapshot only", incremental("runs", "--snapshot-only"), ("snapshot",)),
    Operation("transfer of three snapshots", transfer, ("transfer",)),
    Operation("two items at once", two_at_once, ("snapshot",)),
    Operation("restore to a new file", restore_new, ("restore",), weight=0.7),
    Operation("restore over a file", restore_over, ("restore",), weight=0.7),
    Operation("point delete", _deletes, ("point", "delete")),
    Operation("prune", _prune(), ("prune",)),
    Operation("prune and reclaim all", _prune("--max-dead", "5%"), ("prune",)),
    Operation("vault repair", plain("vault", "repair"), ("vault", "repair")),
    Operation("key rotate", plain("vault", "key", "rotate"), ("vault", "key", "rotate")),
)


def available() -> list[Operation]:
    """The operations whose command this program has."""
    return [operation for operation in OPERATIONS if runner.exists(operation.needs)]
