"""A second process that has a vault open and does what it is told, step by step, beside the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Self

from helpers.children import environment
from helpers.site import Site

_PROGRAM = """
import json, sys
from blockvault.clock import utc_now
from blockvault.errors import BlockVaultError
from blockvault.model import Secret
from blockvault.vault import Vault

state, key_file = sys.argv[1:]
with Vault.open(state_dir=state, secret=Secret(key_file=bytes.fromhex(key_file))) as vault:
    print("open", flush=True)
    for line in sys.stdin:
        space = {"vault": vault, "now": utc_now(), "Secret": Secret}
        kind = None
        try:
            exec(json.loads(line), space)
        except BlockVaultError as error:
            kind = error.kind
        print(json.dumps([space.get("answer"), kind]), flush=True)
"""


class Companion:
    """Opens an encrypted site's vault with its key file, and keeps it open until the end."""

    def __init__(self, site: Site) -> None:
        assert site.secret is not None
        assert site.secret.key_file is not None
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(site.state), site.secret.key_file.hex()],
            env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "open\n"

    def do(self, source: str) -> tuple[Any, str | None]:
        """Run source that may use `vault`, `now`, `Secret`; returns its `answer` and the kind of its error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(source) + "\n")
        self._process.stdin.flush()
        answer, kind = json.loads(self._process.stdout.readline())
        return answer, kind

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0
