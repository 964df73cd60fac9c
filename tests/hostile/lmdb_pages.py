"""What LMDB does with hostile pages if it is made to open them: `python -m tests.hostile.lmdb_pages --trials 300`.

Each trial changes a true `data.mdb`, lets a host take it for its own (its note is forged), and works with the vault in
a child process. Counts how the children end. It is why a host opens no store that it did not make itself.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> int:
    from blockvault.errors import BlockVaultError
    from blockvault.store.host import folder_identity
    from blockvault.vault import Vault
    from hostile import fuzz
    from hostile.targets import patched
    from hostile.world import World

    parser = argparse.ArgumentParser(prog="python -m tests.hostile.lmdb_pages", description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=fuzz.fast_folder()) as folder:
        root = Path(folder)
        world = World(root)
        made = world.copy(root / "made")
        with Vault.open(str(made), state_dir=str(root / "made-state")) as vault:
            vault.points()
        pages = (made / "lmdb" / "data.mdb").read_bytes()
        for _ in range(arguments.trials):
            shutil.rmtree(root / "run", ignore_errors=True)
            work, state = world.copy(root / "run"), root / "run" / "state"
            (work / "lmdb").mkdir()
            patch = b"".join(
                bytes([rng.randrange(20), rng.choice((5, 6, 7, 8, 9, 10, 12, rng.randrange(128))), rng.randrange(16)])
                + rng.choice((rng.randbytes(16), b"\xff" * 16))
                for _ in range(rng.randrange(1, 6))
            )
            data = work / "lmdb" / "data.mdb"
            data.write_bytes(patched(pages, patch))
            note = state / "hosts" / world.keys.vault_id.hex() / "index-identity"
            note.parent.mkdir(parents=True)
            note.write_text(f"{folder_identity(str(work / 'vault.json'))} {data.stat().st_ino}")
            ends[_end_of_child(lambda work=work, state=state: _use(Vault, BlockVaultError, work, state))] += 1
    for end, count in ends.most_common():
        print(f"{count:5}  {end}")
    return 0


def _use(vault: type, error: type[Exception], work: Path, state: Path) -> int:
    try:
        with vault.open(str(work), state_dir=str(state)) as opened:  # type: ignore[attr-defined]
            return 0 if len(opened.points()) == 2 else 3
    except error:
        return 1


def _end_of_child(body: object) -> str:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(20)
        try:
            os._exit(body())  # type: ignore[operator]
        except BaseException:  # noqa: BLE001 - the child has to end here, whatever it met
            os._exit(2)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return ["right: both points listed", "refused by an error", "another exception", "wrong: points missing"][
        os.WEXITSTATUS(status)
    ]


if __name__ == "__main__":
    sys.exit(main())
