"""The commands that look at a trace or at this machine: analyze, views, doctor, completion."""

from __future__ import annotations

import click

COMMANDS: tuple[click.Command, ...] = ()
