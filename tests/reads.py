"""How often is each file of a run read? Counted as it is opened, whoever opens it."""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from genmem.run import storage

_counters, _hooks = [], []


def _opened(event, arguments):
    if event == "open" and _counters and isinstance(arguments[0], str) and set(arguments[1] or "r") <= set("rb"):
        _note(arguments[0])


def _note(file):
    file = Path(file).resolve()
    for folder, counts in _counters:
        if file.is_relative_to(folder) and file.is_file():
            counts[str(file.relative_to(folder))] += 1


@contextmanager
def counted_reads(folder, monkeypatch):
    """Yield a Counter of the files below `folder`: how often each is read in the block."""
    if not _hooks:  # they stay for good
        sys.addaudithook(_opened)
        _hooks.append(_opened)
    load, safe_open, counter = np.load, storage.safe_open, (Path(folder).resolve(), Counter())

    def loaded(file, *args, **keywords):
        """Count once what numpy opens three times to map it into memory."""
        if not isinstance(file, str | Path):
            return load(file, *args, **keywords)
        _note(file)
        held, _counters[:] = list(_counters), []
        try:
            return load(file, *args, **keywords)
        finally:
            _counters[:] = held

    with monkeypatch.context() as patched:
        patched.setattr(np, "load", loaded)
        patched.setattr(storage, "safe_open", lambda file, *a, **k: _note(file) or safe_open(file, *a, **k))
        _counters.append(counter)
        try:
            yield counter[1]
        finally:
            _counters.remove(counter)
