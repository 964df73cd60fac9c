"""Child processes that run a piece of work and are killed, stopped or watched in the middle of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import blockvault

SOURCES = Path(blockvault.__file__).parent
_TESTS = Path(__file__).parents[1]

# Forks itself for each order, so that the modules are loaded once; it has no threads when it forks. An order is
# {"work": source of a function `work(*args)`, "args": [...], "spec": failpoint or null}. The answer is
# {"status": exit status or minus the signal, "reached": {name: visits}, "answer": ..., "error": kind or null}.
_SERVER = """
import json, os, signal, sys
from blockvault import failpoints, vault, workload
from blockvault.errors import BlockVaultError

def run(order, out):
    reached = {}
    fire = failpoints._hook_from(order["spec"]) if order["spec"] else lambda name: None
    def hook(name):
        reached[name] = reached.get(name, 0) + 1
        fire(name)
    failpoints.set_hook(hook)
    space = {}
    exec(order["work"], space)
    answer = error = None
    try:
        answer = space["work"](*order["args"])
    except BlockVaultError as problem:
        error = problem.kind
    os.write(out, json.dumps({"reached": reached, "answer": answer, "error": error}).encode())

for line in sys.stdin:
    order = json.loads(line)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(read)
            run(order, write)
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    told = b""
    while piece := os.read(read, 65536):
        told += piece
    os.close(read)
    _, status = os.waitpid(child, 0)
    done = json.loads(told) if told else {"reached": {}, "answer": None, "error": None}
    done["status"] = os.waitstatus_to_exitcode(status)
    print(json.dumps(done), flush=True)
"""


def environment(**more: str) -> dict[str, str]:
    """The environment of a child that finds the same modules."""
    path = os.pathsep.join([str(SOURCES.parent), str(_TESTS), os.environ.get("PYTHONPATH", "")])
    plain = {key: value for key, value in os.environ.items() if key != "BLOCKVAULT_FAILPOINT"}
    return {**plain, "PYTHONPATH": path, **more}


class ForkServer:
    """Runs work in a fresh child each time; quick, because the child is a fork of one that has everything loaded."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, work: str, *args: Any, spec: str | None = None) -> dict[str, Any]:
        """Run `work` (source of a function of that name) in a child; `spec` is a failpoint."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"work": work, "args": [str(arg) if isinstance(arg, Path) else arg for arg in args], "spec": spec}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def failpoint_names() -> set[str]:
    """Every name that the program reaches, as its sources say; of one that is put together, its beginning."""
    found: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        for argument in re.findall(r"\breach\(([^)]*)\)", path.read_text()):
            if path.name == "failpoints.py":
                continue
            literal = re.fullmatch(r'f?"([a-z0-9.-]+)(\{.*\})?"', argument.strip())
            assert literal, f"{path}: a failpoint's name is written where it is reached, not {argument!r}"
            found.add(literal[1])
    return found
