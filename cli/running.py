"""How commands run: the library is loaded only then, and told which words of the command line it repeats."""

import shlex
import sys
from typing import Any

import click


def library() -> Any:
    """Return genmem; from here on it finds modules in the current folder too, as `python -m` does."""
    import genmem
    from genmem import stages  # noqa: F401 - loaded before a file of the user could be taken for a library

    if "" not in sys.path:
        sys.path.insert(0, "")
    return genmem


def command_line(command: str | None = None) -> str:
    """Return the command line, or what it would be with another command."""
    first, *words = click.get_current_context().find_root().obj
    return shlex.join(["genmem", command or first, *words])
