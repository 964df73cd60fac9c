"""`python -m tests.reliability --kills 2000 --cuts 500 --write`: see `docs/reliability.md`.

Calls itself again with the library of `syncs` preloaded, in a mount namespace: nothing is left behind, however it ends.
Exit code: 0 nothing lost, 1 something was, 2 what was asked for cannot be done here (and why).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # as under pytest: `reliability` is found there

from reliability import cuts, ground, kills, runner, syncs  # noqa: E402 - needs the line above
from reliability.operations import available  # noqa: E402
from reliability.tally import Tally, TimeUpError  # noqa: E402
from reliability.world import Template, World  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from reliability.operations import Operation

DOCUMENT = ROOT / "docs" / "reliability.md"
MIB = 1 << 20
MEMORY = 4096 * MIB
KILL_PLACES = ("ext4", "xfs", "btrfs")
CUT_PLACES = ("ext4", "xfs")
_INSIDE = "BLOCKVAULT_RELIABILITY"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="processes to kill")
    parser.add_argument("--cuts", type=int, default=50, help="power cuts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long, whatever was reached")
    parser.add_argument("--only", metavar="WORDS", help="only operations whose name has these words")
    parser.add_argument("--sabotage", action="store_true", help="the program's syncs do nothing: losses must be found")
    parser.add_argument(
        "--tally", type=Path, nargs="+", default=[], metavar="FILE",
        help="go on from what these files hold, and keep it in the first: a long run in pieces",
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help=f"put the figures into {DOCUMENT.relative_to(ROOT)}")
    return parser.parse_args()


def main() -> int:
    """Parse, prepare the ground, run."""
    options = parse()
    lacking = ground.missing(KILL_PLACES if options.kills else CUT_PLACES)
    if lacking is None and options.cuts and shutil.which("cc") is None:
        lacking = "cc is not installed: processes are stopped at their syncs by a library that is compiled here"
    if lacking:
        print(f"cannot run: {lacking}", file=sys.stderr)
        return 2
    base = os.environ.get(_INSIDE)
    if base is None:
        return _inside(options)
    ground.enter_namespace()
    folder = Path(base)
    ground.mount_memory(folder, MEMORY)
    return disturb(folder, options)


def _inside(options: argparse.Namespace) -> int:
    """This program again, with the library preloaded, its threads kept out, and a folder that is removed at the end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="blockvault-reliability-") as base, tempfile.TemporaryDirectory() as aside:
        inner = {
            **os.environ,
            _INSIDE: base,
            "OPENBLAS_NUM_THREADS": "1",  # no threads in what is forked
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        inner.pop("BLOCKVAULT_FAILPOINT", None)
        if options.cuts:
            inner |= syncs.environment(syncs.build(Path(aside)))
        command = [sys.executable, "-m", "tests.reliability", *sys.argv[1:]]
        process = subprocess.Popen(command, env=inner, cwd=ROOT)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return process.wait()  # it had the signal, too
        finally:
            process.kill()
            process.wait()


def disturb(folder: Path, options: argparse.Namespace) -> int:
    """Make file systems and worlds, and disturb them."""
    tally = Tally(seconds_max=options.minutes * 60, path=options.tally[0] if options.tally else None)
    for path in options.tally:
        if path.exists():
            tally.load(path)
    if options.kills or options.cuts:
        tally.seeds.append(options.seed)
    rng = random.Random(options.seed)
    runner.load_program()
    operations = [one for one in available() if one.begins or not options.only or options.only in one.name]
    template = Template(folder / "template")
    template.build(options.seed)
    scratch = folder / "scratch"
    scratch.mkdir()

    def world(root: Path, *, encrypted: bool) -> World:
        return World(root, scratch, template, encrypted, rng, sabotage=options.sabotage)

    try:
        if options.kills:
            _kills(folder, world, operations, tally, options.kills, options.seed)
        if options.cuts:
            _cuts(folder, world, operations, tally, options.cuts, options.seed)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except TimeUpError:
        print("the time is up", file=sys.stderr)
    print(tally.progress(), file=sys.stderr)
    print(tally.markdown())
    for failure in tally.failures:
        print(f"FAILED  {failure}")
    if options.tally:
        tally.save(options.tally[0])
    if options.write:
        tally.write(DOCUMENT)
    return 1 if tally.failures else 0


def _kills(
    folder: Path, world: Callable[..., World], operations: list[Operation], tally: Tally, wanted: int, seed: int
) -> None:
    worlds = []
    for kind in KILL_PLACES:
        place = folder / f"kills-{kind}"
        ground.make_file_system(folder / f"{kind}.file", kind, 1024 * MIB)
        ground.mount(folder / f"{kind}.file", kind, place)
        for encrypted in (False, True):
            name = f"{kind}{', encrypted' * encrypted}"
            worlds.append((name, world(place / f"world-{int(encrypted)}", encrypted=encrypted)))
    random.Random(seed).shuffle(worlds)  # a run that ends early has others each time
    kills.Killer(worlds, operations, tally).run(wanted)


def _cuts(
    folder: Path, world: Callable[..., World], operations: list[Operation], tally: Tally, wanted: int, seed: int
) -> None:
    under = folder / "under"
    ground.make_file_system(folder / "under.file", "xfs", 2048 * MIB)
    ground.mount(folder / "under.file", "xfs", under)
    cutters = []
    for kind in CUT_PLACES:
        unmet = tally.unmet.setdefault(kind, {})
        for encrypted in (False, True):
            mount = folder / f"cuts-{kind}-{int(encrypted)}"
            cut_world = world(mount / "world", encrypted=encrypted)
            cutters.append(cuts.Cutter(kind, cut_world, under / mount.name, operations, tally, unmet))
    random.Random(seed).shuffle(cutters)
    done = 0
    while done < wanted:
        for cutter in cutters:
            done += cutter.life(min(wanted - done, -(-wanted // len(cutters))))


if __name__ == "__main__":
    sys.exit(main())
