"""The commands about copies: for any generator, from three sets, and for the model of a run."""

from typing import Any

import click

from genmem_cli.options import a_run, checking, sampling
from genmem_cli.progress import bars
from genmem_cli.running import command_line, library, opened, say_as_read


@click.command(epilog='Python: genmem.stages.check_copies("train.npy", "test.npy", "samples.npy")')
@checking
def copycheck(fail_if: str | None, **asked: Any) -> None:
    """Check samples of any generator for copies of its training set, without the model.

    The three sets are the training set of the model, held-out examples of the same source that it never saw, and
    samples of the model. Each is a .npy, .npz, .csv or .parquet file, an MNIST IDX file, or a folder of images. Tables
    may contain text and missing values. Prints the verdict; the last line is the folder with report.html,
    copycheck.json and three tables.

    Conditions have the form NAME OP NUMBER, joined by `and` or `or`. With --fail-if "copied_share_low > 0.01 or
    flagged_samples > 5", the exit code is 1 if the condition holds. docs/copycheck-command.md lists the names, and so
    does the error about an unknown name.
    """
    from genmem.report.copies import headline

    with bars() as progress:
        found = library().stages.check_copies(**asked, fail_if=fail_if, command=command_line(), progress=progress)
    for sentence in found.as_read:
        click.echo(sentence)
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
    """Find the nearest neighbours of every example of RUN, and check samples of its model for copies.

    Without --test, the model is refitted once without the first fold, which serves as held-out set. With --test H, H
    is a file of held-out examples, and samples are those of the model trained on all examples.
    """
    from genmem.report.copies import headline

    run = opened(run_directory)
    say_as_read(run.data())
    with bars() as progress:
        library().stages.neighbors(run, progress=progress)
        about = library().stages.copies(run, test=test, progress=progress, **how)
    for sentence in about["data"].get("test_as_read", ()):
        click.echo(f"test: {sentence}")
    click.echo(headline(about["verdict"], about["sentence"]))
    click.echo(run.path)
