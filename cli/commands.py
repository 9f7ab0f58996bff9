"""The commands. Each imports what it needs when it runs; its help ends with the equivalent line of Python."""

import sys
from typing import TYPE_CHECKING, Any

import click

from genmem_cli.comparing import compare
from genmem_cli.copying import copycheck, neighbors
from genmem_cli.options import (
    POSTERIOR,
    a_run,
    ablating,
    attributing,
    computing,
    locating,
    planning,
    refitting,
    scoring,
)
from genmem_cli.progress import bars
from genmem_cli.running import command_line, library, opened, say_as_read

if TYPE_CHECKING:
    from genmem.run import Run


@click.command(epilog='Python: genmem.audit("digits", model="vae", out="runs/digits")')
@planning
@refitting
@POSTERIOR
@scoring
@click.option("--influence/--no-influence", help="Also compute which training examples shaped the model.")
@click.option("--copies/--no-copies", help="Also check samples of the model for copies of training examples.")
def audit(workers: Any, dask: Any, lanes: Any, recompute: bool, **asked: Any) -> None:
    """Audit a generative model of DATA for memorization. The same command resumes.

    DATA is "digits", a .npy, .npz, .csv or .parquet file, an MNIST IDX file, or a folder of images whose class
    subfolders become labels. Prints the findings; the last line is the path of the run.
    """
    how = {"workers": workers, "dask": dask, "lanes": lanes, "recompute": recompute}
    with bars() as progress:
        done = library().audit(**_asked(asked), **how, progress=progress, announce=_open)
    for finding in done.findings:
        click.echo(finding["sentence"])
    click.echo(done.path)


@click.command(epilog='Python: genmem.stages.plan("digits", model="vae", out="runs/digits")')
@planning
@click.option("--show", is_flag=True, help="Only say how DATA are read.")
def plan(show: bool, **asked: Any) -> None:
    """Write the plan of an audit of DATA, and estimate its time, memory and disk space."""
    if show:
        say_as_read(library().load(asked["data"], **{name: asked[name] for name in READING}))
        return
    run = library().stages.plan(**_asked(asked))
    say_as_read(run.data())
    _announce(run, err=False)
    click.echo(run.path)


@click.command(epilog='Python: genmem.refit(genmem.Run.open("runs/digits"))')
@a_run
@refitting
def refit(run_directory: str, **how: Any) -> None:
    """Refit the model of RUN with examples left out, until all shards are done."""
    _stage("refit", run_directory, **how)


@click.command(epilog='Python: genmem.stages.fit(genmem.Run.open("runs/digits"))')
@a_run
def fit(run_directory: str) -> None:
    """Train the model of RUN on all examples and store its trajectory."""
    _stage("fit", run_directory)


@click.command(epilog='Python: genmem.stages.posterior(genmem.Run.open("runs/digits"))')
@a_run
@POSTERIOR
@computing
@click.option("--recompute", is_flag=True, help="Compute damaged files again.")
def posterior(run_directory: str, **how: Any) -> None:
    """Measure the amortization gap of the scores of RUN, and remove it if it matters."""
    _stage("posterior", run_directory, **how)


@click.command(epilog='Python: genmem.stages.score(genmem.Run.open("runs/digits"))')
@a_run
@scoring
def score(run_directory: str, estimator: str) -> None:
    """Compute the memorization scores of RUN: scores.parquet."""
    _stage("score", run_directory, estimator=estimator)


@click.command(epilog='Python: genmem.stages.regions(genmem.Run.open("runs/digits"))')
@a_run
@locating
def regions(run_directory: str, regions: int, **how: Any) -> None:
    """Find the regions of the data of RUN that need more examples; update the report.

    With --held-out, a region is known to be thin if it has a larger share of held-out than of training examples.
    Without, regions are ranked by their memorization scores alone.
    """
    features = tuple(_features(how.pop(name)) for name in ("features", "held_out_features"))
    given = features if features[1] is not None else features[0]
    about = _stage("regions", run_directory, features=given, n_regions=regions, **how)
    click.echo(about["sentence"])


@click.command(epilog='Python: genmem.stages.report(genmem.Run.open("runs/digits"))')
@a_run
def report(run_directory: str) -> None:
    """Write audit.json and report.html of RUN from stored results."""
    _stage("report", run_directory)


@click.command(epilog='Python: genmem.stages.influence(genmem.Run.open("runs/digits"))')
@a_run
@attributing
def influence(run_directory: str, **how: Any) -> None:
    """Find which training examples shaped the model of RUN and its samples; update the report."""
    about = _stage("influence", run_directory, **how)
    covered = f"Gradients of {about['coverage']}." if about["coverage"] else None
    said = (about["skipped"], about["subset"], about["note"], covered)
    click.echo(" ".join(part for part in said if part), err=True)


@click.command(epilog='Python: genmem.stages.neurons(genmem.Run.open("runs/digits"))')
@a_run
@ablating
def neurons(run_directory: str, **how: Any) -> None:
    """Test whether memorization is local in few units of the networks of RUN; update the report."""
    about = _stage("neurons", run_directory, **how)
    click.echo(about["sentence"])
    for control in about["controls"]:
        click.echo(f"{'passed' if control['passed'] else 'FAILED'}: {control['sentence']}", err=True)


READING = (  # options of `load`
    *("array", "label_array", "label_column", "labels", "group_column", "groups"),
    *("sep", "decimal", "na", "drop", "pixels", "subset", "seed"),
)
ALL = (audit, plan, refit, fit, posterior, score, neighbors, regions, report, influence, neurons, compare, copycheck)


def _features(path: str | None) -> Any:
    """Return the coordinates in a file, None without one."""
    return None if path is None else library().load(path).X


def _asked(asked: dict[str, Any]) -> dict[str, Any]:
    """Convert the options of a command to arguments; add the command line and the Python line of the audit."""
    from genmem.models.factory import parse_settings
    from genmem.run.request import python_line

    settings, device = parse_settings(dict(asked.pop("settings"))), asked.pop("device")
    if device is not None:
        settings["device"] = device
    asked["settings"] = settings or None
    line = python_line(library().audit, asked)
    return {**asked, "request": {"command": command_line("audit"), "python": line}}


def _open(run: "Run") -> None:
    """Print how the data of a run were read, and on a terminal what it will cost, before anything is computed."""
    say_as_read(run.data())
    _announce(run, err=True)


def _announce(run: "Run", *, err: bool) -> None:
    """Print the expected time, memory and disk space; to stderr only if it is a terminal."""
    if err and not sys.stderr.isatty():
        return
    from genmem.leaveout.probe import estimate
    from genmem.report.words import roughly, size

    probe, expected = run.probe or {}, estimate(run)
    how = f"{probe['lanes']} at a time" if probe["method"] == "lanes" else "one after another"
    where = f"on {probe['device']}" + (f" in {probe['workers']} processes" if probe.get("workers", 1) > 1 else "")
    click.echo(f"{run.used_splits().n_splits} refits, {how} {where}.", err=err)
    took = f"Expected: about {roughly(expected.total)}" if "refit" in expected.seconds else "Expected: unknown time"
    click.echo(f"{took}, {size(expected.memory)} of memory, {size(expected.disk)} of disk.", err=err)
    for name, seconds in sorted(expected.seconds.items(), key=lambda item: -item[1]) if not err else ():
        click.echo(f"  {name:<10} {roughly(seconds)}")


def _stage(name: str, run_directory: str, **options: Any) -> Any:
    run = opened(run_directory)
    with bars() as progress:
        done = getattr(library().stages, name)(run, progress=progress, **options)
    click.echo(run.path)
    return done
