"""The command line: each command parses its options, calls one function and prints; heavy imports are local to it.

Results go to stdout, progress and warnings to stderr. Exit code 0 is success, 1 a known failure, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import Any, NoReturn

import click

from nas.cli.calibrate import bank, calibrate
from nas.cli.emit import emit_yaml
from nas.cli.model import cost, data, doctor, latency, ops
from nas.cli.rank import effects, rank
from nas.cli.report import report
from nas.cli.search import search, worker
from nas.cli.solve import solve
from nas.cli.space import import_model, space
from nas.cli.studies import studies
from nas.cli.train import train
from nas.errors import NasError, full_disk, printable
from nas.version import __version__

COMMANDS = {
    "Search": (search, worker, calibrate),
    "Train": (train,),
    "Look at results": (rank, report, solve, effects, bank, studies),
    "Write files": (emit_yaml, import_model),
    "Spaces, modules, checks": (space, data, ops, cost, latency, doctor),
}
"""All commands, by the section of `nas --help` that lists them."""
_STORES = ("search", "worker", "calibrate", "train")
"""Commands that store what is finished as they go."""


class _Group(click.Group):
    """Turns known failures into one message and exit code 1; a traceback only with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (NasError, KeyboardInterrupt, OSError) as error:
            full = full_disk(error)
            if ctx.params.get("debug") or (isinstance(error, OSError) and not (full or isinstance(error, NasError))):
                raise
            stored = "; finished work is stored" if ctx.invoked_subcommand in _STORES else ""
            if isinstance(error, KeyboardInterrupt):
                click.echo(f"stopped{stored}", err=True)
            elif full and not isinstance(error, NasError):
                where = getattr(error, "filename", None) or "the output"
                click.echo(printable(f"error: cannot write {where}: {full}{stored}"), err=True)
            else:
                click.echo(f"error: {printable(str(error))}", err=True)
            ctx.exit(130 if isinstance(error, KeyboardInterrupt) else 1)
        except ImportError as error:  # a fork of Ultralytics may need what is not installed
            from nas.fork.missing import explained

            why = "" if ctx.params.get("debug") else explained(error)
            if not why:
                raise
            click.echo(f"error: {why}", err=True)
            ctx.exit(1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click calls it so
        """List the commands by section."""
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(c.name or "", c.get_short_help_str(width)) for c in commands])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="nas")
@click.option("--debug", is_flag=True, help="Show tracebacks of failures.")
def cli(debug: bool) -> None:
    """Measured search over YOLO module swaps: which are worth it on your data, and the files to train the winner.

    Start with `nas search`: it needs no data and takes a few minutes.
    """
    if debug:
        os.environ["NAS_DEBUG"] = "1"


for _commands in COMMANDS.values():
    for _command in _commands:
        cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):  # a console that cannot show a sign shows another one
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        cli.main(prog_name="nas")
    finally:
        _flush()
    sys.exit(0)


def _flush() -> None:
    """Write what is left in the output; a full disk is said here, as Python would end with a traceback."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again at the end
        if why := full_disk(error):
            click.echo(f"error: cannot write the output: {why}", err=True)
            sys.exit(1)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
