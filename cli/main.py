"""`genmem`: the command group, and what happens when a command fails or is interrupted."""

import os
import shlex
import sys
import warnings
from typing import Any

import click

from genmem.errors import GenmemError
from genmem.version import __version__
from genmem_cli import commands
from genmem_cli.progress import watch_interrupts

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="genmem")
def genmem() -> None:
    """Audit a generative model for memorization.

    `genmem audit digits --out runs/digits` runs every stage on scikit-learn's digits; each stage is also a command
    of its own; `genmem copycheck` needs three sets and no model. Exit codes: 0 done, 1 a --fail-if condition holds,
    2 something you can mend, 130 interrupted (run the same command to resume).
    """


for command in commands.ALL:
    genmem.add_command(command)


def main() -> None:
    """Run the command line and exit with its code."""
    watch_interrupts()
    code = run(sys.argv[1:])
    if code == INTERRUPTED:
        # An interrupt that passed through exec() makes Python end by signal, however it was handled since.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors a user can mend are told in a sentence, without traceback."""
    warnings.showwarning = _tell
    try:
        code = genmem.main(arguments, prog_name="genmem", standalone_mode=False, obj=arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except GenmemError as error:
        click.echo(f"Error: {error}", err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        again = shlex.join(["genmem", *arguments])
        click.echo(f"\nStopped; what is finished is kept. To resume, run it again: {again}", err=True)
        return INTERRUPTED
    return code if isinstance(code, int) else 0  # of `Context.exit`


def _tell(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        click.echo(f"Warning: {message}", err=True)


if __name__ == "__main__":
    main()
