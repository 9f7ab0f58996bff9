"""The command that compares finished runs."""

from typing import Any

import click

from genmem_cli.running import command_line, library


@click.command(epilog='Python: genmem.stages.compare(["runs/before", "runs/after"])')
@click.argument("runs", metavar="RUN RUN ...", nargs=-1, required=True, type=click.Path())
@click.option("--out", type=click.Path(), help="The folder of the results [default: runs/compare-<first>-<last>].")
@click.option("--name", "names", multiple=True, help="What to call a run: once per run, in their order.")
@click.option(
    "--above", type=float, default=0.0, show_default=True, help="Nats above which a score counts as memorized."
)
@click.option(
    "--top",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="The share of examples in the top of each run.",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="False-discovery rate of the lists of examples.",
)
@click.option("--fail-if", help='Exit with 1 if this condition holds: "mean_difference_low > 0.5".')
def compare(runs: tuple[str, ...], names: tuple[str, ...], fail_if: str | None, **how: Any) -> None:
    """Compare finished audits of the same data: what all models memorize, what only one does, and what changed.

    The first RUN is what the others are compared with. Prints the answer; the last line is the folder with compare.html
    and compare.json.

    Conditions have the form NAME OP NUMBER, joined by `and` or `or`. With --fail-if "mean_difference_low > 0.5 or
    changed > 20", the exit code is 1 if the condition holds for any RUN after the first. docs/compare.md lists the
    names, and so does the error about an unknown name.
    """
    found = library().stages.compare(
        list(runs), names=list(names) or None, fail_if=fail_if, command=command_line(), **how
    )
    for note in found.comparison.notes:
        click.echo(note, err=True)
    for sentence in found.comparison.sentences():
        click.echo(sentence)
    if found.failed:
        click.echo(f"--fail-if holds for {', '.join(found.failed)}: {fail_if}", err=True)
    click.echo(found.path)
    click.get_current_context().exit(1 if found.failed else 0)
