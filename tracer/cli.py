"""The command line: ``parkscope COMMAND …``.

This module is imported for every ``--help``, so it imports nothing heavy; the
commands import what they need when they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from probes.errors import InternalError, ParkscopeError
from tracer import cli_heap, cli_look, cli_watch
from tracer.escape import terminal
from tracer.version import VERSION

_EPILOG = """\b
Exit codes:
    0  all is well
    1  the question was answered with no (doctor: attaching would not work;
       demo: no long park was flagged)
    2  the command line or a config file is wrong
    3  no such process, or it has gone, or its memory cannot be read
    4  not CPython, or not a version that can be read (see --no-python)
    5  a permission is missing
    6  the backend cannot be had here
    7  not a trace or heap dump, or one that cannot be read
    8  writing failed; of a trace, what was written is readable
    9  no consistent memory image could be taken; the target runs on
   10  metrics cannot be served at that address
   70  a defect of Parkscope
  129  hang-up   130  Ctrl-C   141  the reader of the output has gone   143  SIGTERM
  'run' exits with its program's code instead, where that ended by itself.
"""
_EXIT_PIPE = 141
_EXIT_INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(VERSION, prog_name="parkscope", message="%(prog)s %(version)s")
def cli() -> None:
    """Say which thread of a live CPython process is parked, on what and since when.

    \b
      parkscope doctor          what works here, and which processes run Python
      parkscope attach PID      say every long park, while it still lasts
    """  # noqa: D301 the \\b is click's mark for a paragraph to be left as it is


for _command in (*cli_watch.COMMANDS, *cli_look.COMMANDS, *cli_heap.COMMANDS):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with a documented exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("_PARKSCOPE_COMPLETE"):
        cli.main(prog_name="parkscope")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. Every error is said here, once."""
    try:
        with cli.make_context("parkscope", list(arguments)) as context:
            result = cli.invoke(context)
            sys.stdout.flush()
            return result if isinstance(result, int) else 0
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except click.ClickException as error:
        return _usage(error)
    except ParkscopeError as error:
        return _complain(error)
    except BrokenPipeError:
        return _reader_gone()
    except (KeyboardInterrupt, click.Abort):
        return _EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 the last resort: a message instead of a traceback
        return _defect(error)


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "parkscope"
    message = " ".join(error.format_message().split())  # click sets choices below each other
    _say(f"error: {terminal(message, 1000)}", f"See '{path} --help'.")
    return error.exit_code


def _complain(error: ParkscopeError) -> int:
    if os.environ.get("PARKSCOPE_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    _say(f"error: {terminal(error.message, 2000)}", error.hint)
    return error.exit_code


def _defect(error: Exception) -> int:
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    defect = InternalError(f"this is a defect of Parkscope: {what}")
    defect.__cause__ = error
    return _complain(defect)


def _reader_gone() -> int:
    """Whoever read our output has closed it (``| head``): stop without a word."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())  # or the interpreter complains when it flushes at exit
    return _EXIT_PIPE


def _say(message: str, hint: str) -> None:
    lines = [message] + ([f"hint: {terminal(hint, 1000)}"] if hint else [])
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
