"""A request, as the line of Python that repeats it."""

import inspect
from collections.abc import Callable, Mapping
from os import PathLike, fspath
from typing import Any

PLAIN = str | int | float | None
NAMES = {"data": "X"}  # names for values that a line cannot contain, if they differ from the argument's name


def python_line(function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """Return the line of Python that calls a public function with these arguments, in their order.

    Required arguments come first, and those equal to their default are left out. Arrays, and other values that a line
    cannot contain, are given by name.

    >>> from genmem.data.examples import load
    >>> python_line(load, {"array": None, "subset": 100, "labels": range(1797), "source": "digits"})
    "genmem.data.load('digits', subset=100, labels=labels)"
    """
    parameters, needed, others = inspect.signature(function).parameters, [], []
    for name, value in arguments.items():
        default = parameters[name].default
        if default is inspect.Parameter.empty:
            needed.append(_written(value, name))
        elif value is not default and not (isinstance(value, PLAIN) and value == default):
            others.append(f"{name}={_written(value, name)}")
    package = function.__module__.split(".")[1]
    home = "genmem" if package == "pipeline" else f"genmem.{package}"
    return " ".join(f"{home}.{function.__name__}({', '.join(needed + others)})".split())


def _written(value: Any, name: str) -> str:
    if isinstance(value, str | PathLike):
        return repr(fspath(value))
    parts = value if isinstance(value, list | tuple) else [value]
    plain = isinstance(value, Mapping) or all(isinstance(part, PLAIN) for part in parts)
    return repr(value) if plain or hasattr(value, "fit") else NAMES.get(name, name)
