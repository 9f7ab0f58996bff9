"""Progress bars on stderr, and silence where stderr is not a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmem.progress import Listener, Progress

TITLES = {
    "refit": "Refitting models",
    "fit": "Fitting on all examples",
    "score": "Scoring",
    "neighbors": "Searching neighbours",
    "regions": "Averaging regions",
    "report": "Writing the report",
}


@contextmanager
def bars() -> "Iterator[Listener]":
    """Yield a listener that draws one bar for each stage."""
    if not sys.stderr.isatty():
        from genmem.progress import ignore

        yield ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Bars(*columns, console=Console(stderr=True)) as drawn:
        tasks: dict[str, object] = {}

        def listen(report: "Progress") -> None:
            if report.stage not in tasks:
                title = TITLES.get(report.stage, report.stage)
                tasks[report.stage] = drawn.add_task(title, total=report.total, detail="")
            drawn.update(tasks[report.stage], completed=report.done, detail=report.detail)  # type: ignore[arg-type]

        yield listen
