"""`genmem`: the command group, and the handling of errors and interrupts."""

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

INTERRUPTED, CLOSED = 130, 141  # as a shell reports SIGINT and SIGPIPE


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="genmem")
def genmem() -> None:
    """Audit a generative model for memorization.

    `genmem audit digits --out runs/digits` runs every stage on scikit-learn's digits; each stage is also a command.
    `genmem copycheck` needs three sets and no model. Exit codes: 0 if done, 1 if a --fail-if condition holds, 2 for an
    error you can correct, 130 if interrupted (the same command resumes).
    """


for command in commands.ALL:
    genmem.add_command(command)


def main() -> None:
    """Run the command line and exit with its code."""
    watch_interrupts()
    os.environ["PYTHONSAFEPATH"] = "1"  # processes that are started import nothing from the current folder by chance
    code = run(sys.argv[1:])
    if code == INTERRUPTED:
        # If an interrupt passed through exec(), Python ends by signal even if it was handled.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; an error that a user can correct is printed without traceback."""
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
    except SystemExit:  # of click, with 1, if nobody reads what is printed; that is no condition of --fail-if
        return CLOSED
    except (KeyboardInterrupt, click.Abort):
        again = shlex.join(["genmem", *arguments])
        click.echo(f"\nInterrupted. Finished work is kept; to resume, run the same command: {again}", err=True)
        return INTERRUPTED
    return code if isinstance(code, int) else 0  # from `Context.exit`


def _tell(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UserWarning):
        click.echo(f"Warning: {message}", err=True)


if __name__ == "__main__":
    main()
