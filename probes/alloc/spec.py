"""Allocation at the level of pools, and every request that pymalloc does not serve and is large."""

from __future__ import annotations

from types import MappingProxyType

from probes.enums import Kind
from probes.spec import CostClass, Hook, ProbeSpec, Program

LARGE_BYTES = 4096
"""Requests of more than this are told one by one."""

REFILL_SITES = MappingProxyType({"rdi": 1, "rsi": 2})
"""Register of the size class → cookie of the refill site (``enum ps_alloc_site``)."""
LIBC_SITES = MappingProxyType({"malloc": 3, "calloc": 4, "realloc": 5})
"""Function of libc → cookie."""

REFILL = Program("ps_refill", Hook.UPROBE)
LARGE = Program("ps_libc_alloc", Hook.UPROBE)

SPEC = ProbeSpec(
    name="alloc",
    summary="pymalloc's pool refills by size class, requests over 4 KiB one by one",
    source="alloc.bpf.c",
    programs=(REFILL, LARGE),
    records=(Kind.POOL_REFILL, Kind.LARGE_ALLOC),
    cost=CostClass.B,
)
