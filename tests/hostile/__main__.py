"""`python -m tests.hostile --seconds 600 [--target NAME]`: fuzz the readers of a vault's bytes, one after the other."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> int:
    from hostile import fuzz
    from hostile.targets import TARGETS, make

    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, default=Path("hostile-findings"), help="folder for inputs that harm")
    parser.add_argument("--keep", type=Path, help="folder for inputs that reached new lines")
    arguments = parser.parse_args()
    harmful = 0
    for name in arguments.target or TARGETS:
        with tempfile.TemporaryDirectory(prefix="hostile-", dir=fuzz.fast_folder()) as folder:
            target = make(name, Path(folder))
            report = fuzz.run(target, seed=arguments.seed, seconds=arguments.seconds)
        print(
            f"{name}: seed {arguments.seed}, {report.executions} executions in {report.seconds:.0f} s, "
            f"{report.refused} refused, {report.lines} lines reached, {len(report.findings)} findings",
            flush=True,
        )
        for finding, data in report.findings.items():
            print(f"  {finding}\n  -> {fuzz.save(arguments.save, target, data)}", flush=True)
        if arguments.keep:
            for data in report.corpus[len(target.seeds) :]:
                fuzz.save(arguments.keep, target, data)
        harmful += len(report.findings)
    return 1 if harmful else 0


if __name__ == "__main__":
    sys.exit(main())
