"""`blockvault service status`: whether the daemon runs, and what it does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("status")
@leaf(vault=False)
def command(call: Call) -> int | None:
    """Tell whether the daemon runs and what it does.

    The exit code is 0 where it answers, 1 where none runs.
    """
    from blockvault.cli.exit_codes import ExitCode
    from blockvault.cli.render import moment
    from blockvault.cli.views import counted
    from blockvault.clock import from_text, utc_now
    from blockvault.config import default_state_dir
    from blockvault.daemon.control import ask
    from blockvault.daemon.service import installed

    state_dir = default_state_dir()
    answer = ask(state_dir, "status")
    there = installed(system=os.geteuid() == 0)
    code = ExitCode.DONE if answer is not None and "pid" in answer else ExitCode.FAILED
    if call.output.as_json:
        call.output.document(
            {"schema": "blockvault.service-status/1", "runs": answer is not None, "units": there, "daemon": answer}
        )
        return code
    facts = [("units", ", ".join(there) or "none are installed")]
    if answer is None or "pid" not in answer:
        facts.append(("state folder", state_dir))
        facts += [("why", str(answer["error"]))] if answer else []
        call.output.facts("no daemon answers", facts)
        return code
    facts += [("since", moment(from_text(answer["since"]), utc_now())), ("state folder", answer["state_dir"])]
    for vault in answer["vaults"]:
        text = vault["problem"] or counted(vault["protected_items"], "protected item")
        facts.append((f"vault {vault['vault']}", text))
    for job in answer["running"]:
        facts.append(("runs", f"{job['phase']} of {job['operation']} {job['job']}, {job['item'] or job['vault']}"))
    facts.append(("waiting", counted(answer["waiting"], "job")))
    call.output.facts(f"the daemon runs (pid {answer['pid']})", facts)
    return code
