"""Access to the library, which is imported only when a command runs, and the command line as text."""

import shlex
import sys
from typing import Any

import click


def library() -> Any:
    """Import and return genmem; modules in the current folder can then be imported too, as with `python -m`."""
    import genmem
    from genmem import stages  # noqa: F401 - before a file of the user could shadow a library

    if "" not in sys.path:
        sys.path.insert(0, "")
    return genmem


def command_line(command: str | None = None) -> str:
    """Return the command line, optionally with another command."""
    first, *words = click.get_current_context().find_root().obj
    return shlex.join(["genmem", command or first, *words])


def say_as_read(data: Any) -> None:
    """Print how examples were read."""
    from genmem.data.as_read import as_read

    for sentence in as_read(data):
        click.echo(sentence)
