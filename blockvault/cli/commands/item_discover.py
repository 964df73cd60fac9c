"""`blockvault item discover`: what on this machine could be protected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.discovery import Discovery, Domain, FoundImage


@click.command("discover")
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=click.Path())
@click.option("--depth", type=click.IntRange(0, 64), default=4, show_default=True, help="How many levels to go down.")
@click.option("--no-libvirt", is_flag=True, help="Do not ask libvirt for its virtual machines.")
@click.option("--all", "everything", is_flag=True, help="Also files whose bytes do not show that they are disks.")
@click.option("--partitions", is_flag=True, help="Show the partitions of each image.")
@leaf(vault=False)
def command(
    call: Call, folders: tuple[str, ...], depth: int, no_libvirt: bool, everything: bool, partitions: bool
) -> int | None:
    """Find disk images and virtual machines that could be protected.

    Images are told by their bytes, in FOLDER and below; without FOLDER where libvirt keeps its images. Nothing is
    changed. The answer of --json can be given to `blockvault protect --from-discovery FILE`.
    """
    from blockvault.discovery import discover

    found = discover(
        list(folders),
        state_dir=call.settings.general.state_dir,
        depth=depth,
        libvirt=not no_libvirt,
        everything=everything,
    )
    if call.output.as_json:
        call.output.document(
            {
                "schema": "blockvault.discovery/1",
                "images": [_image_fields(image) for image in found.images],
                "domains": [_domain_fields(domain) for domain in found.domains],
                "proposals": [{"item": each.item, "disks": each.disks} for each in found.proposals],
                "notes": found.notes,
            }
        )
        return None
    _show(call, found, partitions=partitions)
    return None


def _show(call: Call, found: Discovery, *, partitions: bool) -> None:
    output = call.output
    if found.domains:
        rows = [
            (
                domain.name,
                "running" if domain.running else "off",
                str(len(domain.disks)),
                "yes" if domain.agent_socket else "no",
                ", ".join(f"{disk.name} {disk.path or f'({disk.kind})'}" for disk in domain.disks),
            )
            for domain in found.domains
        ]
        output.table(("virtual machine", "state", ">disks", "agent", "from"), rows)
        output.line()
    if found.images:
        output.table(("format", ">size", ">data", "contents", "item", "open by", "image"), _rows(found, partitions))
    else:
        output.note("no disk image was found")
    for note in (*found.notes, *_remarks(found)):
        output.note(note)
    if found.proposals:
        path = found.proposals[0].disks[0].partition("=")[2]
        output.note(
            f"to protect one: `blockvault protect {path} --policy default`; all of them: give the answer of --json to "
            "`blockvault protect --from-discovery FILE --policy default`"
        )


def _rows(found: Discovery, partitions: bool) -> list[tuple[str, ...]]:
    from blockvault.units import format_size

    rows: list[tuple[str, ...]] = []
    for each in found.images:
        image = each.image
        if image is None:
            rows.append(("?", "", "", each.problem, "", "", each.path))
            continue
        rows.append(
            (
                image.format.value + (" device" if image.is_device else ""),
                format_size(image.size),
                format_size(image.data_bytes),
                image.contents,
                ", ".join(f"{owned.item} ({owned.vault})" for owned in each.owned) or "-",
                ", ".join(f"{opener.name} {opener.pid}" for opener in each.openers)
                or ("in use" if each.in_use else "-"),
                each.path,
            )
        )
        if partitions and image.table is not None:
            for part in image.table.partitions:
                label = f"{part.number}: {part.holds or part.type}" + (f" '{part.name}'" if part.name else "")
                rows.append(("", format_size(part.size), "", f"  {label}", "", "", f"  at {part.offset}"))
    return rows


def _remarks(found: Discovery) -> list[str]:
    """What should be known of images before they are protected."""
    remarks = []
    for each in found.images:
        image = each.image
        if image is None:
            continue
        if image.needs:
            remarks.append(f"{each.path} is no whole disk without {', '.join(image.needs)}")
        remarks += [f"{each.path}: {fault}" for fault in image.faults]
        if each.mount is not None:
            remarks.append(f"{each.path} lies on a mount of another machine ({each.mount.kind})")
        if each.in_use:
            remarks.append(f"{each.path}: {each.in_use}")
        if len(each.domains) > 1:
            remarks.append(f"{each.path} is a disk of several virtual machines: {', '.join(each.domains)}")
    for domain in found.domains:
        for disk in domain.disks:
            if disk.shareable:
                remarks.append(f"disk {disk.name} of '{domain.name}' is shareable: a cluster's, others write to it too")
            if not disk.path:
                remarks.append(f"disk {disk.name} of '{domain.name}' is no file or device here ({disk.kind})")
    return remarks


def _image_fields(found: FoundImage) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "path": found.path,
        "problem": found.problem or None,
        "items": [{"item": each.item, "vault": each.vault, "vault_path": each.vault_path} for each in found.owned],
        "open_by": [{"pid": each.pid, "name": each.name, "writes": each.writes} for each in found.openers],
        "in_use": found.in_use or None,
        "domains": found.domains,
        "network_mount": found.mount.kind if found.mount else None,
        "needed_by": found.needed_by,
    }
    if found.image is not None:
        image = found.image
        fields |= {
            "format": image.format,
            "detail": image.detail,
            "size_bytes": image.size,
            "file_bytes": image.file_bytes,
            "data_bytes": image.data_bytes,
            "is_device": image.is_device,
            "contents": image.contents,
            "table": image.table.kind if image.table else None,
            "partitions": [_partition_fields(part) for part in (image.table.partitions if image.table else ())],
            "holds": str(image.holds) if image.holds else None,
            "encrypted": image.encrypted,
            "needs": image.needs,
            "faults": image.faults,
            "not_a_disk": image.not_a_disk or None,
        }
    return fields


def _partition_fields(part: Any) -> dict[str, Any]:
    return {
        "number": part.number,
        "offset": part.offset,
        "size_bytes": part.size,
        "type": part.type,
        "name": part.name,
        "holds": part.holds.kind if part.holds else None,
        "label": part.holds.label if part.holds else None,
    }


def _domain_fields(domain: Domain) -> dict[str, Any]:
    return {
        "domain": domain.name,
        "uuid": domain.uuid,
        "running": domain.running,
        "agent_socket": domain.agent_socket or None,
        "disks": [
            {
                "disk": disk.name,
                "path": disk.path or None,
                "kind": disk.kind,
                "format": disk.format,
                "shareable": disk.shareable,
                "read_only": disk.read_only,
            }
            for disk in domain.disks
        ],
    }
