"""Write down what a user sees of each kind of damage: `python -m tests.damage.table` makes docs/reliability-damage.md.

    python -m tests.damage.table [--encrypted] [--output FILE]

Every kind of file x every action of the matrix (`tests/helpers/matrix.py`), each in a child process on a copy of a
vault with four points of two items. A wrong byte restored without a word ends it with exit code 1 and no file.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import pytest  # noqa: E402 - the tests' own folder has to be found first
from helpers.children import ForkServer  # noqa: E402
from helpers.matrix import HOSTS, KEEPERS, LEASE, RECORDS, Case, Finder, harm, make_template  # noqa: E402

DOCUMENT = TESTS.parent / "docs" / "reliability-damage.md"
ACTIONS = {
    "bit flip": ["flip in the middle", "flip before the footer"],
    "truncation": ["cut in half", "cut to nothing"],
    "zeroed page": ["zeros at the start", "zeros at the end"],
    "swapped": ["swapped"],
    "deleted": ["deleted"],
    "older version": ["older version put back"],
}


def kinds(*, encrypted: bool) -> dict[str, Finder]:
    found: dict[str, Finder] = {**KEEPERS}
    if encrypted:
        found["key slot"] = lambda case: case.folder / "keys/0"
    found |= RECORDS
    found |= LEASE
    found["lmdb/data.mdb"] = lambda case: case.folder / "lmdb/data.mdb"
    found["lmdb/lock.mdb"] = lambda case: case.folder / "lmdb/lock.mdb"
    return found | {f"the host's {name}": finder for name, finder in HOSTS.items()}


def told(found: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Columns of one case: opening, points, found by, next point, repair."""
    if found["open"] is not None:
        return f"refused, `{found['open'][0]}`", "-", "opening", "-", "put it back from a copy"
    points = found["points"]
    right = sum(outcome == "right" for outcome in points.values())
    restored = "all right" if right == len(points) else f"{right} of {len(points)} right, the others refused by name"
    by = "nothing is wrong"
    if found["damage"]:
        by = "`vault check --quick`" if found["quick"] else "`verify`"
    elif right < len(points):
        by = "`points`"
    following = "right" if found["next"] == found["full"] == "right" else f"refused, `{found['next'][0]}`"
    after = sum(outcome == "right" for outcome in found["after"].values())
    done = []
    if found.get("healed"):
        done.append(f"{found['healed']} blocks healed")
    if found.get("records"):
        done.append("record put back")
    if found["left"]:
        done.append("what is lost is named")
    elif after < len(points):
        done.append("cannot know of it")
    if after > right:
        done.append("all points right" if after == len(points) else f"{after} of {len(points)} points right")
    return "opens", restored, by, following, ", ".join(done) or "nothing to do"


def rows(root: Path, *, encrypted: bool) -> tuple[list[str], int]:
    template = make_template(root / "template", encrypted=encrypted)
    stranger = make_template(root / "stranger", encrypted=encrypted)
    lines: list[str] = []
    cases = 0
    with ForkServer() as children:
        for kind, finder in kinds(encrypted=encrypted).items():
            for action, shapes in ACTIONS.items():
                answers: dict[tuple[str, ...], None] = {}
                for shape in shapes:
                    folder = root / "case"
                    case = Case(template, stranger, folder)
                    try:
                        harm(case, finder(case), shape)
                    except (pytest.skip.Exception, AssertionError):
                        shutil.rmtree(folder)
                        continue
                    found = case.survey(children, level="repair")
                    shutil.rmtree(folder)
                    outcomes = [*found["points"].values(), *found.get("after", {}).values(), found.get("next")]
                    if "wrong" in outcomes or found.get("full") == "wrong":
                        raise SystemExit(f"{kind}, {shape}: a wrong byte was restored: {found}")
                    cases += 1
                    answers[told(found)] = None
                    print(f"{kind}: {shape}", file=sys.stderr)
                for columns in answers:
                    lines.append(f"| {kind} | {action} | {' | '.join(columns)} |")
    return lines, cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encrypted", action="store_true", help="a vault under a key file, with its key slot")
    parser.add_argument("--output", type=Path, default=DOCUMENT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blockvault-damage-") as folder:
        lines, cases = rows(Path(folder), encrypted=options.encrypted)
    kind = "encrypted" if options.encrypted else "not encrypted"
    command = "python -m tests.damage.table" + (" --encrypted" if options.encrypted else "")
    text = f"""# What damage does, and what a user sees of it

Made by `{command}`: {cases} cases on a vault that is {kind}, with four points of two items, each case on
a fresh copy. **In none of them a wrong byte was restored, and every point that does not need what was damaged
restores.** Of an action there are two rows where two places in the file tell different things.

The order in each case: open, restore every point, `verify --quick`, `vault check`, `verify`, take two more points,
`vault repair`, restore every point again. The live disk image is there, and no snapshot. Files that are created once
and never changed have no older version; "older version" of a point is another point of the same number, from a vault
that went on from an older copy.

| file | action | opening | the points there were | found by | next points | `vault repair` |
|---|---|---|---|---|---|---|
"""
    options.output.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
