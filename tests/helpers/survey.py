"""What is left of a vault after something happened to it: opened, listed, restored, verified, gone on with.

`survey` runs in a child too (its arguments and its answer are plain values), because a damaged LMDB file is mapped
memory: reading it may end the process.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from blockvault.errors import BlockVaultError
from blockvault.model import Secret
from blockvault.monitor import Monitor
from blockvault.vault import Vault
from helpers.files import first_difference


def _told(error: BlockVaultError) -> list[str]:
    return [error.kind, f"{error.message} {error.why or ''}"]


def survey(
    state: str, image: str, copies: dict[str, str], changed: str, key_file: str | None = None, level: str = "all"
) -> dict[str, Any]:
    """Look at everything, then take two more points: one of the image as `changed` has it, one compared in full.

    Args:
        state: the host's state folder.
        image: the disk image of the points' item.
        copies: what each point must restore to, by label.
        changed: a file with what the image holds by now.
        key_file: hex of the vault's key file.
        level: "all", or "points" to take none; with "repair" the vault is repaired at the end and looked at again.

    Returns:
        `open`: error or None; `points`: for each label "right", "wrong" or an error; `listed`: labels;
        `quick`, `check`, `damage`: objects that `verify --quick`, `vault check` and `verify` name; `next`, `full`:
        "right", "wrong", an error, or what restoring it says; `warnings`: of the jobs after the damage; `healed`,
        `records`, `left`: what the repair did, and objects that it names; `after`: `points`, once it has ended.
    """
    found: dict[str, Any] = {"open": None, "points": {}, "listed": [], "damage": [], "warnings": []}
    secret = Secret(key_file=bytes.fromhex(key_file)) if key_file else None
    try:
        vault = Vault.open(state_dir=state, secret=secret)
    except BlockVaultError as error:
        found["open"] = _told(error)
        return found
    with vault:
        try:
            found["listed"] = [info.label for info in vault.points()]
        except BlockVaultError as error:
            found["listed"] = _told(error)
        found["points"] = {label: _restored(vault, label, copy, state) for label, copy in copies.items()}
        found["quick"] = [damage.object for damage in vault.verify(quick=True).damage]
        found["check"] = [damage.object for damage in vault.check().damage]
        found["damage"] = [damage.object for damage in vault.verify().damage]
        if level != "points":
            Path(image).write_bytes(Path(changed).read_bytes())
            for name, full in (("next", False), ("full", True)):
                monitor = Monitor()
                try:
                    result = vault.snapshot([image], keep=False, full=full, monitor=monitor)
                except BlockVaultError as error:
                    found[name] = _told(error)
                    continue
                found["warnings"] += [warning.message for warning in monitor.warnings]
                found[name] = _restored(vault, str(result.number), image, state)
        if level == "repair":
            try:
                report = vault.repair()
            except BlockVaultError as error:
                found["left"] = _told(error)
            else:
                found["healed"], found["records"] = len(report.healed), list(report.records)
                found["left"] = [damage.object for damage in report.left]
            found["after"] = {label: _restored(vault, label, copy, state) for label, copy in copies.items()}
    return found


def _restored(vault: Vault, label: str, copy: str, folder: str) -> Any:
    target = os.path.join(folder, f"restored-{os.urandom(4).hex()}")
    try:
        vault.restore(label, output=target, source="vault")
    except BlockVaultError as error:
        assert not os.path.exists(target), "a restore that fails leaves nothing"
        return _told(error)
    right = first_difference(Path(target), Path(copy)) is None
    os.unlink(target)
    return "right" if right else "wrong"
