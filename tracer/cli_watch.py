"""The commands that watch a process: attach, record, run, live, serve, replay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from tracer.cli_options import ADDRESS, PATH, PID, TRACE, TRIGGERS, Watch, watching
from tracer.metrics_address import DEFAULT_ADDRESS


@click.command()
@click.argument("pids", type=PID, nargs=-1, metavar="PID...")
@watching()
def attach(pids: tuple[int, ...], watch: Watch) -> int:
    """Say every long park of live processes, while it still lasts.

    One line per event, or one JSON object with --json, until the process ends,
    --duration is over or you press Ctrl-C.
    """
    from tracer.watch import stream_events

    return stream_events(watch.session(pids), watch.output())


@click.command()
@click.argument("pids", type=PID, nargs=-1, metavar="PID...")
@click.option(
    "-o", "--output", "trace", type=PATH, required=True, metavar="TRACE", help="The file to write."
)
@click.option("--force", is_flag=True, help="Replace TRACE if it exists.")
@watching("idle", dump=True)
def record(pids: tuple[int, ...], trace: Path, force: bool, watch: Watch) -> int:
    """Record everything to a trace, for 'analyze' and 'replay'.

    A long park that is not idle takes a heap dump, too, at most one in five minutes:
    TRACE's name with a number and the suffix .heap. --no-dump does without.
    """
    from tracer.watch import record as do_record

    options = watch.session(pids, triggers=watch.wanted(trace))
    return do_record(options, watch.output(trace, force))


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("-o", "--output", "trace", type=PATH, metavar="TRACE", help="Record there as well.")
@click.option("--force", is_flag=True, help="Replace TRACE if it exists.")
@watching("scenario")
def run(command: tuple[str, ...], trace: Path | None, force: bool, watch: Watch) -> int:
    """Start a program and watch it from its first instruction on.

    Its input and output are its own; what Parkscope has to say goes to stderr. Ends
    when the program does, with its exit code.
    """
    from tracer.run_target import Child, watch_child

    with Child(command) as child:
        options = watch.session((child.pid,), launched=True, triggers=watch.wanted(trace))
        return watch_child(child, options, watch.output(trace, force))


@click.command()
@click.argument("pids", type=PID, nargs=-1, metavar="PID...")
@click.option(
    "--sort",
    type=click.Choice(["time", "name", "tid"]),
    default="time",
    show_default=True,
    help="Order of threads.",
)
@watching("json")
def live(pids: tuple[int, ...], sort: str, watch: Watch) -> int:
    """Show the threads, what each one waits on and for how long.

    Keys: q quits, i shows or hides idle parks, s sorts differently. Without a
    terminal a table is printed once a second instead.
    """
    from tracer.watch_live import watch_live

    return watch_live(watch.session(pids, realtime=True), watch.output(), sort)


@click.command()
@click.argument("trace", type=TRACE, metavar="TRACE")
@watching(
    "duration", "backend", "scenario", "follow", "alloc", "slow_path", "python", "budget",
    "native_map", "native_profiles", "metrics", "listen_anywhere", "metrics_textfile", *TRIGGERS,
)  # fmt: skip
def replay(trace: Path, watch: Watch) -> int:
    """Say the events of a trace again, as 'attach' would have.

    The recorded records pass through the same detector, so another --long-park is
    possible.
    """
    from tracer.watch import stream_events

    return stream_events(watch.session(replay=trace), watch.output())


@click.command()
@click.argument("pids", type=PID, nargs=-1, metavar="PID...")
@click.option(
    "--listen",
    type=ADDRESS,
    default=DEFAULT_ADDRESS,
    show_default=True,
    metavar="ADDRESS",
    help="Where to serve: HOST:PORT; port 0 takes any free one.",
)
@click.option(
    "--stay", is_flag=True, help="Go on serving the last readings when all targets have ended."
)
@watching("json", "idle", "metrics")
def serve(pids: tuple[int, ...], listen: str, stay: bool, watch: Watch) -> int:
    """Serve metrics of live processes for Prometheus, until they have ended.

    They are read at http://ADDRESS/metrics; docs/metrics/ says what each one means.
    """  # fmt: skip
    from tracer.watch_serve import serve as do_serve

    watch = replace(watch, metrics=listen)
    return do_serve(watch.session(pids, realtime=True), watch.output(), stay=stay)


COMMANDS = (attach, record, run, live, serve, replay)
