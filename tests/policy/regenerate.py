"""Write the golden files of `tests/policy/golden/` anew: `python tests/policy/regenerate.py`.

Then read `git diff`: each changed line is a point that will be kept or lost for somebody.
"""

from __future__ import annotations

from pathlib import Path

from policy_schedules import histories, render

FOLDER = Path(__file__).parent / "golden"


def main() -> None:
    """Write what differs, and remove the files of histories that are gone."""
    FOLDER.mkdir(exist_ok=True)
    wanted = {f"{history.name}.txt": render(history) for history in histories()}
    for gone in {path.name for path in FOLDER.iterdir()} - wanted.keys():
        (FOLDER / gone).unlink()
        print(f"removed {gone}")
    for name, text in wanted.items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
