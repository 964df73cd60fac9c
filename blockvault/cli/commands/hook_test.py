"""`blockvault hook test`: try what is done around an item's capture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.engine.hook_tests import HookTest
    from blockvault.hooks.scripts import HookRun


@click.command("test")
@click.argument("item", metavar="ITEM")
@click.option("--freeze", is_flag=True, help="Freeze its guest and its mounts too, and thaw them at once.")
@leaf()
def command(call: Call, item: str, freeze: bool) -> int | None:
    """Run the scripts of an item without a capture.

    The pre scripts run in their order, then the post scripts of those that were started, as a capture would run them;
    BLOCKVAULT_POINT is empty. Ends with 1 if a script failed or may not be run.
    """
    with call.open_vault() as vault, call.job() as monitor:
        test = vault.try_hooks(item, freeze=freeze, monitor=monitor)
    if call.output.as_json:
        call.output.document({"message_type": "summary", "schema": "blockvault.hook-test/1", **_fields(item, test)})
    else:
        _show(call, item, test)
    return None if test.succeeded else ExitCode.FAILED


def _fields(item: str, test: HookTest) -> dict[str, Any]:
    from blockvault.cli.commands.hook_list import hook_fields

    return {
        "item": item,
        "succeeded": test.succeeded,
        "hooks": [hook_fields(hook) for hook in test.hooks],
        "runs": [
            {
                "hook": run.hook.name,
                "phase": run.phase,
                "exit_code": run.exit_code,
                "seconds": run.seconds,
                "timed_out": run.timed_out,
                "problem": run.problem,
            }
            for run in test.runs
        ],
        "freeze_ms": test.frozen.freeze_ms if test.frozen else None,
        "freeze_lost": test.frozen.lost if test.frozen else None,
        "problem": test.problem.message if test.problem else None,
    }


def _show(call: Call, item: str, test: HookTest) -> None:
    from blockvault.units import format_seconds

    for hook in test.hooks:
        if hook.problem:
            call.output.message("error:", f"hook {hook.name} is not run, and so none is: {hook.problem}", "red")
            if hook.do:
                call.output.message("do:   ", hook.do, "bold")
    if test.runs:
        rows = [(run.hook.name, run.phase.value, _outcome(run), format_seconds(run.seconds)) for run in test.runs]
        call.output.table(("hook", "phase", "exit", ">time"), rows)
    elif not test.hooks:
        call.output.note(f"item '{item}' has no scripts; see `blockvault hook list {item}`")
    if test.frozen is not None:
        lost = f", but {test.frozen.lost}" if test.frozen.lost else ""
        call.output.line(f"frozen for {test.frozen.freeze_ms:.1f} ms{lost}")
    if test.problem is not None:
        why = f": {test.problem.why}" if test.problem.why else ""
        call.output.message("error:", f"{test.problem.message}{why}   [{test.problem.kind}]", "red")


def _outcome(run: HookRun) -> str:
    if run.problem is not None:
        return run.problem
    code = run.exit_code
    return "" if code is None else str(code) if code >= 0 else f"signal {-code}"
