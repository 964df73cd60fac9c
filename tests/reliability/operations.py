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

    On success there is a new point of each item in `makes` with these disks, the points in `moves` are in the vault,
    those in `removes` are gone, those in `may_remove` may be, and with `frees` nothing is left that no point needs.
    `once`: the kinds of error by which a second run may tell that all is done already.
    """

    argv: tuple[str, ...]
    makes: dict[str, Disks] = field(default_factory=dict)
    moves: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    removes: frozenset[str] = frozenset()
    may_remove: frozenset[str] = frozenset()
    frees: bool = False
    once: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """A row of the table. `needs`: the command that must exist; `begins`: a new world is made for it.

    `encrypted`: only where the vault is.
    """

    name: str
    prepare: Callable[[World], list[Command]]
    needs: tuple[str, ...]
    begins: bool = False
    weight: float = 1.0
    encrypted: bool = False


def _snapshot(world: World, item: str, *options: str) -> Command:
    words = ["snapshot", *world.targets(item), *options]
    if len(world.images[item]) > 1:
        words += ["--name", item]
    return Command(world.argv(*words), makes={item: world.now(item)})


def _undisturbed(world: World, command: Command) -> str:
    """Run a command as part of the preparation; returns its output."""
    order = runner.Order(command.argv, world.environment(), world.scratch)
    code = runner.wait(order.start())
    if code not in runner.GOOD:
        raise runner.UndisturbedError(f"{' '.join(command.argv)} ended with {code}:\n{order.output()}")
    return order.output()


def _taken(world: World, item: str, *options: str) -> str:
    """A point that is there before; returns its label."""
    command = _snapshot(world, item, *options)
    label = str(json.loads(_undisturbed(world, command).splitlines()[-1])["point"])
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
        labels.append(_taken(world, item, "--snapshot-only"))
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


def _in_middle(world: World) -> str:
    """A point of the vault between others of its item, as far as there are such."""
    for _ in range(3 - len(world.labels("alpha"))):
        world.change("alpha", "runs")
        _taken(world, "alpha")
    labels = world.labels("alpha")
    return labels[len(labels) // 2]


def delete(*options: str) -> Callable[[World], list[Command]]:
    def prepare(world: World) -> list[Command]:
        label = _in_middle(world)
        words = world.argv("point", "delete", label, "--yes", *options)
        done = ("point.deleted", "point.not-found", "point.ended")
        return [Command(words, removes=frozenset([label]), once=done)]

    return prepare


def undelete(world: World) -> list[Command]:
    label = _in_middle(world)
    item, disks = world.item_of[label], world.points[label]
    world.change(item, "small-edits")
    _taken(world, item)  # the label may be that of a snapshot that waits: a mark needs a point
    _undisturbed(world, Command(world.argv("transfer")))
    _undisturbed(world, Command(world.argv("point", "delete", label, "--yes")))
    world.forget(label)
    return [Command(world.argv("point", "undelete", label), makes={item: disks}, once=("point.not-deleted",))]


def prune(*options: str) -> Callable[[World], list[Command]]:
    """One point is gone for good before, which makes work for reclaim; what kills left behind is more."""

    def prepare(world: World) -> list[Command]:
        label = _in_middle(world)
        world.change("alpha", "runs")
        _taken(world, "alpha")
        _undisturbed(world, Command(world.argv("point", "delete", label, "--purge", "--yes")))
        world.forget(label)
        kept = {label for item in world.images for label in world.labels(item)[-3:]}
        words = world.argv("prune", "--keep-last", "3", "--yes", *options)
        return [Command(words, may_remove=frozenset(world.labels()) - kept, frees=True)]

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
    Operation("point delete", delete(), ("point", "delete"), weight=0.5),
    Operation("point delete for good", delete("--purge"), ("point", "delete"), weight=0.5),
    Operation("point undelete", undelete, ("point", "undelete"), weight=0.5),
    Operation("prune, reclaim", prune(), ("prune",)),
    Operation("prune, packs rewritten", prune("--max-dead", "5%"), ("prune",)),
    Operation("vault repair", plain("vault", "repair"), ("vault", "repair")),
    Operation("key rotate", plain("vault", "key", "rotate"), ("vault", "key", "rotate"), weight=0.5, encrypted=True),
)


def available() -> list[Operation]:
    """The operations whose command this program has."""
    return [operation for operation in OPERATIONS if runner.exists(operation.needs)]
