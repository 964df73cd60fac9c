"""Every act that takes something away, or changes what will be, leaves a line in the audit log: none is forgotten.

A new method of the library's front door, or a new command, fails here until it is said which of the two it is.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.site import KEY_FILE, Site

import blockvault
from blockvault.cli.app import COMMANDS, GROUPS
from blockvault.engine.key_changes import KeyChanges
from blockvault.errors import BlockVaultError
from blockvault.model import Secret
from blockvault.monitor import Monitor
from blockvault.policy import RetentionRules
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.store.audit_log import INTENT, OUTCOME, AuditLog
from blockvault.vault import Vault

# What takes nothing away: it looks, or it adds.
HARMLESS = {
    Vault: {
        "add_item", "capture", "check", "check_removable", "close", "coverage", "create", "damage", "decisions", "diff",
        "item", "items", "items_of_policy", "known", "map_off", "open", "open_or_create", "plan_assignment",
        "plan_item", "plan_policy", "plan_policy_deletion", "plan_protection", "plan_prune", "plan_snapshot",
        "plan_unprotect", "point", "points", "policies", "policy", "policy_of", "policy_revision", "policy_to_resume",
        "snapshot", "snapshot_days", "snapshot_folders", "transfer", "unreadable_policies", "usage", "verify",
    },
    KeyChanges: {"epochs", "export_lines", "slot", "slots"},
}  # fmt: skip
# What adds or changes, and yet takes nothing away: groups of items say only what is captured at one instant.
HARMLESS[Vault] |= {"agent_state", "create_group", "groups", "hooks", "remove_group", "set_group", "snapshot_group"}
HARMLESS[Vault] |= {"mount_problems", "refresh_settings", "try_hooks"}
HARMLESS[Vault] |= {"expire_snapshots"}  # those whose days are over, as every capture does

# Commands that go by another way than the front door of a vault, and note themselves.
OWN_ACTS = {
    "alert_ack": "alert.ack",
    "job_cancel": "job.cancel",
    "notify_add": "notify.add",
    "notify_remove": "notify.remove",
    "service_uninstall": "service.uninstall",
}


def public_methods(of: type) -> dict[str, Callable[..., Any]]:
    return {name: member for name, member in inspect.getmembers(of, callable) if not name.startswith("_")}


@pytest.mark.parametrize("of", [Vault, KeyChanges], ids=["Vault", "Vault.keys"])
def test_every_method_is_noted_or_harmless(of: type) -> None:
    methods = public_methods(of)
    noted = {name for name, method in methods.items() if hasattr(method, "audited_as")}
    assert noted.isdisjoint(HARMLESS[of])
    assert methods.keys() - noted - HARMLESS[of] == set(), "note it with @audited, or say here that it is harmless"


def test_every_command_that_asks_first_is_noted() -> None:
    """A command with `--yes` takes something away: it calls a noted method, or notes itself."""
    noted = {name for of in (Vault, KeyChanges) for name, method in public_methods(of).items()
             if hasattr(method, "audited_as")}  # fmt: skip
    folder = Path(blockvault.__file__).parent / "cli" / "commands"
    modules = {module for table in (COMMANDS, *GROUPS.values()) for module, _ in table.values() if module}
    for module in sorted(modules):
        text = (folder / f"{module}.py").read_text()
        calls = {node.func.attr for node in ast.walk(ast.parse(text))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}  # fmt: skip
        if module in OWN_ACTS:
            assert f'"{OWN_ACTS[module]}"' in text
            assert "acting" in calls
        elif '"--yes"' in text:
            assert calls & noted, f"{module} asks before it acts, and nothing that it calls is noted"


class Acts:
    """Carries out every noted act once, on a real vault; each is looked for in the log."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.image = site.image()
        site.take(self.image)
        site.image("disk", seed=2)
        site.take(self.image)

    def carry_out(self) -> dict[str, Callable[[], Any]]:
        vault, image = self.site.vault, str(self.image)
        nightly = Policy("nightly", Schedule.daily("02:00", zone="UTC"), RetentionRules(keep_daily=9))
        return {
            "vault.set": lambda: vault.set_soft_delete_days(3),
            "item.set": lambda: vault.set_item("disk", comment="a disk"),
            "policy.create": lambda: vault.create_policy(nightly),
            "policy.set": lambda: vault.set_policy("nightly", confirmed=True, comment="other"),
            "policy.assign": lambda: vault.assign_policy(["disk"], "nightly", confirmed=True),
            "item.unprotect": lambda: vault.unprotect(vault.plan_unprotect(["disk"])),
            "item.resume": lambda: vault.resume("disk", confirmed=True),
            "item.protect": lambda: vault.protect(vault.plan_protection(["disk"], "default"), confirmed=True),
            "policy.delete": lambda: vault.delete_policy("nightly"),
            "point.hold": lambda: vault.hold("1", reason="keep"),
            "point.unhold": lambda: vault.unhold("1"),
            "point.delete": lambda: vault.delete_point("1"),
            "point.undelete": lambda: vault.undelete_point("1"),
            "prune": lambda: vault.prune(vault.plan_prune(), confirmed=True),
            "restore.force": lambda: vault.restore("2", output=image, force=True),
            "restore.in-place": lambda: vault.restore_in_place("2", undo=False),
            "vault.repair": vault.repair,
            "key.add": lambda: vault.keys.add(Secret(passphrase=b"abcdefgh"), now=vault.created),
            "key.replace": lambda: vault.keys.replace(1, Secret(passphrase=b"12345678"), now=vault.created),
            "key.export": lambda: vault.keys.export(now=vault.created),
            "key.remove": lambda: vault.keys.remove(2),
            "item.remove": lambda: vault.remove_item("disk"),
            "key.rotate": lambda: self.site.reopen().keys.rotate(now=vault.created),
        }


def test_each_act_leaves_an_intent_and_an_outcome(make_site: Callable[..., Site]) -> None:
    site = make_site(secret=KEY_FILE)
    acts = Acts(site).carry_out()
    noted = {method.audited_as for of in (Vault, KeyChanges) for method in public_methods(of).values()
             if hasattr(method, "audited_as")}  # fmt: skip
    assert acts.keys() == noted
    log = AuditLog(str(site.state))
    for act, carry_out in acts.items():
        before = len(log.read().lines)
        try:
            carry_out()
            outcome = "done"
        except BlockVaultError as error:  # `item.remove` refuses an item with points: that is an outcome too
            assert act == "item.remove"
            outcome = error.kind
        new = [line for line in log.read().lines[before:] if line.act == act]
        assert [(line.phase, line.outcome) for line in new] == [(INTENT, None), (OUTCOME, outcome)], act
        assert all((line.vault, line.vault_id) == ("default", site.vault.id) for line in new)
    report = log.read()
    assert (report.faults, report.torn, report.open_intents()) == ([], [], [])
    text = Path(log.path).read_text()
    assert "abcdefgh" not in text
    assert "12345678" not in text
    details = {line.act: line.details for line in report.lines if line.phase == INTENT}
    assert details["point.hold"]["point"] == "1"
    assert details["point.hold"]["item"] == "disk"
    assert details["policy.set"]["comment"] == "other"


def test_what_only_looks_leaves_none(site: Site) -> None:
    acts = Acts(site)
    vault = site.vault
    vault.restore("1", output=str(site.root / "new.img"))
    vault.restore("1", output=str(acts.image), force=True, dry_run=True)
    vault.restore_in_place("1", dry_run=True)
    vault.repair(dry_run=True)
    vault.plan_prune()
    assert not Path(AuditLog(str(site.state)).path).exists()


def test_a_point_is_not_deleted_if_that_cannot_be_noted(site: Site) -> None:
    Acts(site)
    Path(site.state, "audit.log").write_bytes(b"rubbish\n" * 60_000)
    with pytest.raises(BlockVaultError) as caught:
        site.vault.delete_point("1", purge=True)
    assert caught.value.kind == "audit.damaged"
    assert len(site.vault.points()) == 2


def test_a_full_disk_lets_prune_make_room(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    Acts(site)
    vault = site.vault
    plan = vault.plan_prune(RetentionRules(keep_last=1))

    def full(*_: object, **__: object) -> int:
        from blockvault.errors import DeviceError

        raise DeviceError("store.no-space", "no space left", errno=28)

    monkeypatch.setattr(AuditLog, "begin", full)
    assert vault.prune(plan, confirmed=True).expired == ["1"]
    with pytest.raises(BlockVaultError) as caught:
        vault.hold("2")
    assert caught.value.kind == "store.no-space"


def test_nobody_who_needs_a_restore_is_sent_away_for_the_log(site: Site) -> None:
    acts = Acts(site)
    said = []

    class Listening(Monitor):
        def on_message(self, level: str, message: str) -> None:
            said.append(message)

    Path(site.state, "audit.log").write_bytes(b"rubbish\n" * 60_000)
    site.vault.restore("1", output=str(acts.image), force=True, monitor=Listening())
    assert acts.image.read_bytes() == site.copies["1"]["disk"].read_bytes()
    site.vault.restore_in_place("2", undo=False, monitor=Listening())
    assert acts.image.read_bytes() == site.copies["2"]["disk"].read_bytes()
    assert said.count("the audit log lacks this: the audit log cannot be gone on with") == 2
