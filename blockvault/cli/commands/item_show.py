"""`blockvault item show`: an item, its disks and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.engine.hook_tests import AgentState
    from blockvault.model import Item


@click.command("show")
@click.argument("name", metavar="ITEM")
@leaf()
def command(call: Call, name: str) -> int | None:
    """Show an item and its disks."""
    with call.open_vault() as vault:
        item = vault.item(name)
        map_off = vault.map_off(name)
        days = vault.snapshot_days(item)
        agent = vault.agent_state(item)
    show(call, item, days, map_off, agent)
    return None


def show(call: Call, item: Item, snapshot_days: int, map_off: str, agent: AgentState | None = None) -> None:
    """The item, for people or programs. `map_off` says why its changed-block maps are off, if they are."""
    from blockvault.cli.render import moment
    from blockvault.cli.views import item_fields, policy_text
    from blockvault.units import format_size

    if call.output.as_json:
        call.output.document(
            {
                "schema": "blockvault.item/1",
                **item_fields(item, snapshot_days),
                "map_off": map_off or None,
                "agent": agent,
            }
        )
        return
    facts = [("id", item.id), ("registered", moment(item.created)), ("chunk size", format_size(item.chunk_size))]
    facts += [(f"disk {disk.name}", disk.path) for disk in item.disks]
    facts.append(("policy", policy_text(item)))
    days = "none are kept" if snapshot_days == 0 else f"kept {snapshot_days} days"
    facts.append(("snapshots", days))
    facts.append(("snapshots in", item.snapshot_dir or "beside the image where possible, else in the state folder"))
    if item.group:
        facts.append(("group", f"{item.group}: captured at one instant by `blockvault snapshot @{item.group}`"))
    if agent is not None:
        facts.append(("guest agent", f"{agent_text(agent)}, {agent.socket}"))
    facts += [("frozen at", mount) for mount in item.freeze_mounts]
    if item.hook_seconds is not None:
        facts.append(("scripts have", f"{item.hook_seconds} s"))
    if map_off:
        facts.append(("map", f"off, every disk is scanned: {map_off}"))
        facts.append(("on again with", f"blockvault snapshot {item.name} --full"))
    if item.comment:
        facts.append(("comment", item.comment))
    call.output.facts(f"item '{item.name}'", facts)


def agent_text(agent: AgentState) -> str:
    """Whether a guest agent answers, in words."""
    if not agent.answers:
        return f"does not answer ({agent.problem})"
    return f"answers, version {agent.version}" + ("" if agent.can_freeze else ", but may not freeze")
