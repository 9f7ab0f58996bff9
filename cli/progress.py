"""Progress bars on stderr, if it is a terminal."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmem.protocols import Listener, Progress

TITLES = {
    "refit": "Refitting models",
    "fit": "Fitting on all examples",
    "posterior": "Refitting posteriors",
    "score": "Scoring",
    "neighbors": "Searching neighbours",
    "regions": "Averaging regions",
    "report": "Writing the report",
    "influence": "Computing influence",
    "copies": "Checking for copies",
}


_interrupted = threading.Event()


def watch_interrupts() -> None:
    """Remember Ctrl-C: an interrupt in a callback of a library can be lost, so reports of progress check for it."""

    def interrupt(*_: object) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


@contextmanager
def bars() -> "Iterator[Listener]":
    """Yield a listener that draws one bar for each stage, and stops the work after a lost Ctrl-C."""
    with _drawn() as draw:

        def listen(report: "Progress") -> None:
            if _interrupted.is_set():
                raise KeyboardInterrupt
            draw(report)

        yield listen


@contextmanager
def _drawn() -> "Iterator[Listener]":
    if not sys.stderr.isatty():
        from genmem.protocols import ignore

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
