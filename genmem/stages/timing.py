"""Each stage holds its run and adds to the times of the audit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from genmem.errors import RunError
from genmem.run import Run


@contextmanager
def stage(run: Run, name: str, start: float | None = None) -> Iterator[None]:
    """Hold the run and add the seconds of the block to its times: a resumed stage is the sum of its parts."""
    with run.lock():
        start = time.perf_counter() if start is None else start
        try:
            yield
        finally:
            times = run.read_json("times.json") or {}
            times[name] = round(times.get(name, 0.0) + time.perf_counter() - start, 3)
            with suppress(RunError):  # a full disk: what went wrong in the block is the better message
                run.write_json("times.json", times)
