"""`blockvault snapshot`: take a recovery point now, with no set-up before."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf, parse_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockvault.cli.call import Call
    from blockvault.model import DryRunResult, SnapshotResult
    from blockvault.vault import Vault


@click.command("snapshot")
@click.argument("targets", metavar="DISK...|ITEM|@GROUP", nargs=-1, type=click.Path())
@click.option("--group", metavar="NAME", help="All items of this group, at one instant; the same as @NAME.")
@click.option("--name", metavar="ITEM", help="The item's name; else the first file's stem.")
@click.option("--retain-until", metavar="30d|DATE", help="Keep this point until then, whatever the rules say.")
@click.option("--snapshot-only", is_flag=True, help="Capture only; `blockvault transfer` does the rest.")
@click.option("--full", is_flag=True, help="Compare every chunk by identity instead of by digest.")
@click.option(
    "--consistency",
    type=click.Choice(["none", "crash", "fs", "app"]),
    default="crash",
    show_default=True,
    help="fs: freeze the guest; app: run its pre scripts too; none: an image may be written meanwhile.",
)
@click.option("--on-hook-failure", type=click.Choice(["warn", "fail"]), default="warn", show_default=True,
              help="Where less is reached: a crash-consistent point, or none.")  # fmt: skip
@click.option("--no-keep", is_flag=True, help="Keep no local snapshot; the point is in the vault only.")
@click.option("--tag", "tags", metavar="K=V", multiple=True, help="A tag of the point; may be given often.")
@click.option("--comment", metavar="TEXT", default="", help="A comment of the point.")
@click.option("--level", type=click.IntRange(1, 19), default=1, show_default=True, help="Compression level.")
@click.option("--detach", is_flag=True, help="Let the daemon do it: print the job, and do not wait for it.")
@click.option("--dry-run", is_flag=True, help="Report the churn only; nothing is written.")
@leaf()
def command(call: Call, targets: tuple[str, ...], tags: tuple[str, ...], dry_run: bool, **options: Any) -> int | None:
    """Take a recovery point now.

    DISK is a disk image or a block device; several make one point of one item. ITEM is the name of an item that the
    vault knows; @GROUP makes a point of each item of a group. The first use makes the default vault.
    """
    group = _group_of(targets, options["group"])
    if group is not None and (dry_run or options["name"]):
        raise click.UsageError("--dry-run and --name are for one item, not for a group")
    if dry_run:
        _plan(call, targets, options)
        return None
    if options["detach"]:
        if group is not None or options["consistency"] != "crash":
            raise click.UsageError("--detach takes one ITEM; its policy says which consistency is asked")
        return _detach(call, targets, options)
    from blockvault.clock import until, utc_now
    from blockvault.jobs.noted import Noted
    from blockvault.model import Consistency, OnHookFailure, Phase2, Tier
    from blockvault.model.job import Operation

    now = utc_now()
    retain_until = options["retain_until"]
    arguments: dict[str, Any] = {
        "full": options["full"],
        "consistency": Consistency(options["consistency"]),
        "on_hook_failure": OnHookFailure(options["on_hook_failure"]),
        "tags": parse_pairs(tags, "tag"),
        "comment": options["comment"],
        "retain_until": until(retain_until, now) if retain_until else None,
        "level": options["level"],
        "now": now,
    }
    if group is not None:
        if options["no_keep"]:
            raise click.UsageError("a group is captured by snapshots: leave out --no-keep")
        phase2 = Phase2.LATER if options["snapshot_only"] else Phase2.NOW
        with call.open_vault() as vault, call.job() as monitor:
            results = vault.snapshot_group(group, phase2=phase2, **arguments, monitor=monitor)
        for result in results:
            _show(call, result)
        return None
    arguments |= {
        "name": options["name"],
        "keep": not options["no_keep"],
        "snapshot_only": options["snapshot_only"],
    }
    with (
        call.open_or_make_vault(targets) as vault,
        call.job() as monitor,
        Noted(
            vault, Operation.BACKUP, monitor, retain_until=arguments["retain_until"], comment=options["comment"]
        ) as noted,
    ):
        result = vault.snapshot(
            list(targets), **arguments, monitor=monitor, on_number=noted.started, on_captured=noted.captured
        )
        noted.done(result.statistics, waits=result.tier is Tier.SNAPSHOT)
    _show(call, result)
    return None


def _group_of(targets: tuple[str, ...], option: str | None) -> str | None:
    """The group that is meant, by `@NAME` or `--group`; None: disks or an item are."""
    named = [target for target in targets if target.startswith("@")]
    if option is not None and targets:
        raise click.UsageError("--group takes no DISK or ITEM besides")
    if option is not None:
        return option
    if not targets:
        raise click.UsageError("Missing argument 'DISK...|ITEM|@GROUP'.")
    if named and len(targets) > 1:
        raise click.UsageError("a group is named alone")
    return named[0][1:] if named else None


def _show(call: Call, result: SnapshotResult) -> None:
    from blockvault.cli.views import snapshot_facts, snapshot_fields

    restore = f"blockvault restore --point {result.number}{call.vault_flag}"
    call.warn(result.warnings)
    if call.output.as_json:
        fields = snapshot_fields(result, restore)
        call.output.document({"message_type": "summary", "schema": "blockvault.snapshot/1", **fields})
    elif not call.output.quiet:
        title = f"point {result.number} of item '{result.item}': {result.job_state}"
        call.output.facts(title, snapshot_facts(result, restore))


def _detach(call: Call, targets: tuple[str, ...], options: dict[str, Any]) -> int | None:
    """Leave the work to the daemon: a job of this item, on demand."""
    if len(targets) != 1 or any(options[name] for name in ("name", "snapshot_only", "full", "no_keep")):
        raise click.UsageError("--detach takes one ITEM, with --retain-until and --comment only")
    from blockvault.clock import until, utc_now
    from blockvault.config import default_state_dir
    from blockvault.daemon.control import ask
    from blockvault.ids import VaultId
    from blockvault.jobs.phases import backup_job
    from blockvault.model.job import Trigger
    from blockvault.store.journal import Journal

    now = utc_now()
    with call.open_vault() as vault:
        item = vault.item(targets[0])
        vault_id = VaultId(vault.id)
        name = vault.path if "/" in call.vault_name else vault.name
    retain_until = options["retain_until"]
    wanted = backup_job(
        vault=name,
        vault_id=vault_id,
        item_id=item.id,
        item=item.name,
        trigger=Trigger.ON_DEMAND,
        now=now,
        retain_until=until(retain_until, now) if retain_until else None,
        comment=options["comment"],
    )
    with Journal(default_state_dir()) as journal:
        job = journal.add(wanted)
    assert job is not None
    answered = ask(default_state_dir(), "look") is not None
    if call.output.as_json:
        fields = {"job": job.id, "item": item.name, "daemon_runs": answered}
        call.output.document({"message_type": "summary", "schema": "blockvault.snapshot-job/1", **fields})
        return None
    call.output.line(job.id)
    if not answered:
        call.output.note("no daemon runs on this state folder: the job waits until `blockvault daemon` does")
    return None


def _plan(call: Call, targets: tuple[str, ...], options: dict[str, Any]) -> None:
    with _vault_to_plan_with(call) as vault, call.job() as monitor:
        result = vault.plan_snapshot(list(targets), name=options["name"], full=options["full"], monitor=monitor)
    _show_plan(call, result)


@contextmanager
def _vault_to_plan_with(call: Call) -> Iterator[Vault]:
    """The vault; where there is no default vault yet, one that vanishes again: a dry run leaves nothing behind."""
    from blockvault.config import DEFAULT_VAULT
    from blockvault.errors import NotFoundError
    from blockvault.vault import Vault

    try:
        vault = call.open_vault()
    except NotFoundError as error:
        if error.kind != "vault.not-found" or call.vault_name != DEFAULT_VAULT:
            raise
    else:
        with vault:
            yield vault
        return
    with (
        tempfile.TemporaryDirectory(prefix="blockvault-") as folder,
        Vault.create(DEFAULT_VAULT, state_dir=folder) as vault,
    ):
        yield vault


def _show_plan(call: Call, result: DryRunResult) -> None:
    from blockvault.cli.views import counted
    from blockvault.units import format_size

    if call.output.as_json:
        call.output.document(
            {
                "message_type": "summary",
                "schema": "blockvault.snapshot-plan/1",
                "item": result.item,
                "parent": result.parent,
                "size_bytes": result.size_bytes,
                "read_bytes": result.read_bytes,
                "changed_bytes": result.changed_bytes,
                "changed_chunks": result.changed_chunks,
                "churn_source": result.churn_source,
            }
        )
        return
    against = "there is no point yet" if result.parent is None else f"against point {result.parent}"
    call.output.facts(
        f"dry run for item '{result.item}': nothing was written",
        [
            ("disk size", format_size(result.size_bytes)),
            ("read", format_size(result.read_bytes)),
            ("changed", f"{format_size(result.changed_bytes)} in {counted(result.changed_chunks, 'chunk')}, {against}"),
            ("churn from", result.churn_source.value),
        ],
    )
