"""What must hold after an end, however it came: looked at by a process that opens the vault as a user would.

- Every point that there was, or whose command had succeeded, is listed and restores byte for byte.
- No other point is listed but one that the ended command was making; and that restores byte for byte, too.
- A restore's target is as it was or as it is to be, and nothing else lies beside it.
- `verify` finds nothing. What no point needs is told by name: packs, layers, scratch files; nothing else is there.
- The same commands, run again, succeed, and of a capture that ended in the middle nothing stays.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockvault.errors import BlockVaultError
from blockvault.model import PointInfo, SnapshotKind, Tier
from blockvault.snapshots.records import State
from blockvault.vault import Vault
from reliability import runner
from reliability.world import World, digest

if TYPE_CHECKING:
    from reliability.operations import Command

_LAYOUT = "<!-- table: layout -->"  # the table in docs/format.md that names every file of a vault
_SOURCES = {Tier.SNAPSHOT: ("snapshot",), Tier.VAULT: ("vault",), Tier.BOTH: ("snapshot", "vault")}


def _known_names() -> re.Pattern[str]:
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    rows = text.split(_LAYOUT)[1].split("\n\n")[0].splitlines()[3:]
    return re.compile("|".join(row.split(" | ")[1].strip("`").replace("\\|", "|") for row in rows))


@dataclass
class Findings:
    """What was found. `errors` empty: nothing was lost. `made`: points that are new, with their items."""

    errors: list[str] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    vault: bool = False
    counts: Counter[str] = field(default_factory=Counter)


class Check:
    """One look at a world. `acked`: for each command, whether it had succeeded before the end."""

    def __init__(self, world: World, commands: list[Command], acked: list[bool], *, sample: int | None) -> None:
        self.world = world
        self.commands = commands
        self.acked = acked
        # How many old points are restored. None: all of them, and every byte is verified; 0: only what is new is looked
        # at, after a run that nothing disturbed.
        self.sample = sample
        self.rng = random.Random(world.rng.random())
        self.found = Findings()

    def run(self) -> Findings:
        """To be called in a process of its own."""
        world, found = self.world, self.found
        data = world.vault / "lmdb" / "data.mdb"
        before = data.stat().st_ino if data.exists() else None
        try:
            vault = Vault.open(state_dir=str(world.state), secret=world.secret)
        except BlockVaultError as error:
            if error.kind != "vault.not-found" or world.made or any(self.acked):
                found.errors.append(f"the vault does not open: {error.kind}: {error.message} ({error.why})")
            return found
        with vault:
            found.vault = True
            found.counts["vaults opened"] += 1
            if before is not None and data.stat().st_ino != before:
                found.counts["LMDB stores made anew"] += 1
            try:
                infos = {info.label: info for info in vault.points()}
                self._points(vault, infos)
                self._targets()
                halves = self._half_snapshots(vault)
                if self.sample != 0:
                    self._verify(vault)
                if self.sample != 0 or any(command.frees for command in self.commands):
                    self._leftovers(vault)
                if self.sample != 0:
                    found.counts["files of half snapshots"] += len(halves)
                elif halves:
                    found.errors.append(f"half snapshots stay: {', '.join(halves)}")
            except BlockVaultError as error:
                found.errors.append(f"{error.kind}: {error.message} ({error.why})")
        return found

    def _points(self, vault: Vault, infos: dict[str, PointInfo]) -> None:
        world, found = self.world, self.found
        free = frozenset[str]().union(*(command.may_remove | command.removes for command in self.commands))
        for label in world.points:
            if label not in infos:
                if label in free:
                    found.gone.append(label)
                else:
                    found.errors.append(f"point {label} is lost")
        wanted: dict[str, dict[str, str]] = {}
        for label in infos.keys() - world.points.keys():
            item = infos[label].item
            maker = next((command for command in self.commands if item in command.makes), None)
            if maker is None or item in found.made.values():
                found.errors.append(f"point {label} of item {item} is listed, and nobody made it")
                continue
            found.made[label] = item
            wanted[label] = maker.makes[item]
        for command, acked in zip(self.commands, self.acked, strict=True):
            for item in command.makes if acked else ():
                if item not in found.made.values():
                    found.errors.append(f"the point of item {item} is lost, though its command had succeeded")
            for label in command.removes & infos.keys() if acked else ():
                found.errors.append(f"point {label} is listed, though its deletion had succeeded")
            for label in command.moves if acked else ():
                if label in infos and infos[label].tier is Tier.SNAPSHOT:
                    found.errors.append(f"point {label} is not in the vault, though its transfer had succeeded")
        old = [label for label in world.points if label in infos]
        chosen = old if self.sample is None else self.rng.sample(old, min(self.sample, len(old)))
        wanted |= {label: world.points[label] for label in chosen}
        for label, disks in wanted.items():
            sources = _SOURCES[infos[label].tier]
            if label not in found.made and self.sample is not None:
                sources = (self.rng.choice(sources),)
            for source in sources:
                self._restore(vault, label, disks, source)

    def _restore(self, vault: Vault, label: str, disks: dict[str, str], source: str) -> None:
        for disk, bytes_then in disks.items():
            target = self.world.scratch / "restored"
            target.unlink(missing_ok=True)
            where = f"point {label}, disk {disk}, from the {source}"
            self.found.counts["restores compared"] += 1
            try:
                result = vault.restore(label, disk=disk, output=str(target), source=source)
            except BlockVaultError as error:
                self.found.errors.append(f"{where}: {error.kind}: {error.message} ({error.why})")
                continue
            if result.warnings or result.healed_chunks:
                self.found.errors.append(f"{where}: {'; '.join(result.warnings)}")
            if digest(target) != bytes_then:
                self.found.errors.append(f"{where}: the bytes are wrong")

    def _targets(self) -> None:
        for command, acked in zip(self.commands, self.acked, strict=True):
            for target in command.targets:
                holds = digest(target.path) if target.path.exists() else None
                if holds != target.after and (acked or holds != target.before):
                    self.found.errors.append(f"the target {target.path.name} is neither as before nor whole")
                others = [path.name for path in target.path.parent.glob("*") if path != target.path]
                if others:
                    self.found.errors.append(f"beside the target lies {', '.join(others)}")

    def _verify(self, vault: Vault) -> None:
        report = vault.verify(quick=self.sample is not None)
        self.found.counts["quick verifies" if report.quick else "full verifies"] += 1
        self.found.errors += [f"verify: {damage.object}: {damage.reason}" for damage in report.damage]

    def _half_snapshots(self, vault: Vault) -> list[str]:
        """Files of half snapshots of the items that the commands capture: the next capture removes them."""
        tier = vault._session.tier
        halves = []
        for item in {item for command in self.commands for item in command.makes}:
            ids = [one.id for one in vault.items() if one.name == item]
            # A removed snapshot of a raw chain stays while an older one reads through it.
            whole = [
                stored.record
                for one in ids
                for stored in tier._shelf.load(one)
                if stored.state is State.KEPT or (stored.state, stored.record.kind) == (State.REMOVED, SnapshotKind.RAW)
            ]
            numbers = {str(record.number) for record in whole}
            ours = {disk.file for record in whole for disk in record.disks}
            folders = [*self.world.vault.parents[1].glob(f"hosts/*/snapshots/{ids[0]}")] if ids else []
            folders += [*self.world.state.glob(f"snapshots/{item}-*"), *self.world.root.glob(f".blockvault/{item}-*")]
            for path in [path for folder in folders for path in folder.iterdir()]:
                parts = path.name.split(".")
                known = path.suffix == ".lock" or str(path) in ours or not numbers.isdisjoint(parts)
                if not known and parts[-1] != "newest":
                    halves.append(path.name)
        return halves

    def _leftovers(self, vault: Vault) -> None:
        counts: Counter[str] = Counter()
        known = _known_names()
        packs, layers = named_objects(vault)
        met: set[str] = set()
        for top, _, names in os.walk(self.world.vault):
            folder = os.path.relpath(top, self.world.vault)
            for name in names:
                full = os.path.normpath(os.path.join(folder, name))
                if not known.fullmatch(full):
                    self.found.errors.append(f"a file that is none of the vault's: {full}")
                elif full.startswith("main/packs/"):
                    pack = name.partition(".")[0]
                    counts["packs that no point names"] += pack not in packs
                    counts["older generations of packs"] += pack in met
                    met.add(pack)
                elif full.startswith("main/layers/"):
                    counts["layers that no point names"] += name not in layers
                elif folder in ("tmp", "leases"):
                    counts["scratch files and leases of the dead"] += 1
        unneeded = sum(n for name, n in counts.items() if "packs" in name or "layers" in name)
        if unneeded and any(command.frees and acked for command, acked in zip(self.commands, self.acked, strict=True)):
            self.found.errors.append(f"{unneeded} packs and layers that no point needs stay after a reclaim")
        for path in self.world.vault.parent.iterdir():
            counts["vaults half made"] += path != self.world.vault
        if self.sample != 0:
            self.found.counts += counts


def named_objects(vault: Vault) -> tuple[set[str], set[str]]:
    """Names of the packs and layers that some point needs, be it deleted as long as it can be brought back."""
    from blockvault.store.manifest import Manifest

    session = vault._session
    packs: set[str] = set()
    layers: set[str] = set()
    for info in vault.points(deleted=True):
        for disk in info.point.disks if info.point is not None else ():
            if {ref.name.hex() for ref in disk.layers} <= layers:
                continue
            manifest = Manifest(session.store, session.keys, disk)
            for layer in manifest.layers:
                layers.add(layer.ref.name.hex())
                for cell in layer.segment_cells().tolist():
                    packs |= {name.hex() for name in layer.segment(layer.entry(cell)).packs}
                layer.close()
    return packs, layers


def look(world: World, commands: list[Command], acked: list[bool], *, sample: int | None) -> Findings:
    """Check in a process of its own, and take what was found into the world's account."""
    found: Findings = runner.answer(Check(world, commands, acked, sample=sample).run)
    world.made = world.made or found.vault
    makes: dict[str, Any] = {}
    for command in commands:
        makes |= command.makes
    for label, item in found.made.items():
        world.remember(label, item, makes[item])
    for label in found.gone:
        world.forget(label)
    return found


def go_on(world: World, commands: list[Command]) -> Findings:
    """Run the commands again, undisturbed: they succeed, and what they made restores."""
    found = Findings()
    done_before = []
    for command in commands:
        for target in command.targets:
            if target.before is None:
                target.path.unlink(missing_ok=True)
        order = runner.Order(command.argv, world.environment(), world.scratch)
        code = runner.wait(order.start())
        if code not in runner.GOOD and any(f"{kind}" in order.output() for kind in command.once):
            done_before.append(command)
        elif code not in runner.GOOD:
            found.errors.append(f"the next {command.argv[0]} ended with {code}: {order.output()}")
        elif code:
            found.counts["next runs with a warning"] += 1
    if not found.errors:
        after = look(world, commands, [command not in done_before for command in commands], sample=0)
        found.errors += [f"after the next run: {error}" for error in after.errors]
        found.counts += after.counts
    return found


def examine(world: World, commands: list[Command], acked: list[bool], *, thorough: bool) -> Findings:
    """Everything: look, go on."""
    found = look(world, commands, acked, sample=None if thorough else 1)
    if not found.errors:
        after = go_on(world, commands)
        found.errors += after.errors
        found.counts += after.counts
    return found
