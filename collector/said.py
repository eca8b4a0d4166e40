"""How what is known of threads stands in events: plain JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collector.context import Frame, Link, Party, Resource


def stack_list(frames: Sequence[Frame] | None) -> list[dict[str, Any]] | None:
    """``stack``, innermost first; None where it could not be read."""
    if frames is None:
        return None
    return [
        {"function": f.function, "file": f.file, "line": f.line, "module": f.module} for f in frames
    ]


def resource_dict(resource: Resource) -> dict[str, Any]:
    """``resource``; an address of 0 is none."""
    address = f"{resource.address:#x}" if resource.address else None
    return {"type": resource.type, "name": resource.name, "address": address}


def party_dict(party: Party) -> dict[str, Any]:
    """One of ``candidates``."""
    return {
        "tid": party.tid,
        "thread_name": party.thread_name,
        "how": party.how,
        "stack": stack_list(party.frames),
    }


def link_dict(link: Link) -> dict[str, Any]:
    """``holder``, or one of ``chain``: what it does and what it waits for in its turn."""
    waits_on = None if link.resource is None else resource_dict(link.resource)
    return {**party_dict(link.party), "does": link.does, "waits_on": waits_on}
