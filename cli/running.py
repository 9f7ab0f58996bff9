"""Access to the library, which is imported only when a command runs, and the command line as text."""

import shlex
import sys
from typing import Any

import click

TRUST = "genmem.trust"  # key of the setting of --trust in the context of a command


def library() -> Any:
    """Import and return genmem. Files in the current folder are not imported in place of libraries."""
    sys.path[:] = [folder for folder in sys.path if folder not in ("", ".")]
    import genmem

    return genmem


def opened(run_directory: str) -> Any:
    """Open a run; with --trust, say which code of others it may import, and allow it."""
    from genmem.models.trust import foreign_names

    trust = bool(click.get_current_context().meta.get(TRUST))
    run = library().Run.open(run_directory, trust=trust)
    if trust and (named := foreign_names(run.plan["model"])):
        click.echo(f"Importing {', '.join(named)}, as --trust allows.", err=True)
    return run


def command_line(command: str | None = None) -> str:
    """Return the command line, optionally with another command."""
    first, *words = click.get_current_context().find_root().obj
    return shlex.join(["genmem", command or first, *words])


def say_as_read(data: Any) -> None:
    """Print how examples were read."""
    from genmem.data.as_read import as_read

    for sentence in as_read(data):
        click.echo(sentence)
