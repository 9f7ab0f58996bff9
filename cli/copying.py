"""The commands about copies: of any generator from three sets, and of the model of a run."""

from typing import Any

import click

from genmem_cli.options import a_run, checking, sampling
from genmem_cli.progress import bars
from genmem_cli.running import command_line, library


@click.command(epilog='Python: genmem.stages.check_copies("train.npy", "test.npy", "samples.npy")')
@checking
def copycheck(fail_if: str | None, **asked: Any) -> None:
    """Check samples of any generator for copies of its training set; no model needed.

    Each set is a .npy, .npz, .csv or .parquet file, an MNIST IDX file, or a folder of images: what the model was
    trained on, examples of the same source that it never saw, and what it generated. Tables may hold text and gaps.
    Prints the verdict; the last line is the folder that holds report.html, copycheck.json and three tables.

    A condition is NAME OP NUMBER, joined by `and` or `or`: --fail-if "copied_share_low > 0.01 or flagged_samples > 5"
    exits with 1 where it holds. docs/copycheck-command.md lists the names; so does the message about an unknown one.
    """
    from genmem.report.copies import headline

    with bars() as progress:
        found = library().stages.check_copies(**asked, fail_if=fail_if, command=command_line(), progress=progress)
    click.echo(headline(found.check.verdict, found.check.sentence))
    if found.failed:
        click.echo(f"--fail-if holds: {fail_if}", err=True)
    click.echo(found.path)
    click.get_current_context().exit(1 if found.failed else 0)


RUN = 'genmem.Run.open("runs/digits")'


@click.command(epilog=f"Python: genmem.stages.neighbors({RUN}); genmem.stages.copies({RUN})")
@a_run
@sampling
def neighbors(run_directory: str, test: str | None, **how: Any) -> None:
    """Find the nearest neighbours of every example of RUN, and whether samples of its model are copies.

    Without --test the model is refitted once, without the first fold, so that there are examples of the same source
    that it never saw. With --test H, held-out examples from a file, samples are those of the model trained on all.
    """
    from genmem.report.copies import headline

    run = library().Run.open(run_directory)
    with bars() as progress:
        library().stages.neighbors(run, progress=progress)
        about = library().stages.copies(run, test=test, progress=progress, **how)
    click.echo(headline(about["verdict"], about["sentence"]))
    click.echo(run.path)
