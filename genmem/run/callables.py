"""Functions in a plan: the name of a callable, and a digest of what it does, so that a changed one is noticed."""

import dis
import functools
import hashlib
import sys
from collections.abc import Iterable
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np

DEEPEST = 8  # functions within functions
MUTATING = {"append", "extend", "insert", "pop", "clear", "update", "setdefault", "add", "remove"}
PLAIN = (int, float, complex, str, bytes, bool, type(None))
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def name_of(value: Any) -> str:
    """Return a callable as "package.module:name"; only the name of a function or class can be imported again.

    >>> name_of(functools.partial(name_of, 1))
    'functools.partial(genmem.run.callables:name_of)'
    """
    if isinstance(value, functools.partial):
        return f"functools.partial({name_of(value.func)})"
    if not hasattr(value, "__qualname__"):
        kind = type(value)
        return f"{kind.__module__}:{kind.__qualname__}()"
    return f"{value.__module__}:{value.__qualname__}"


def digest_of(value: Any) -> str:
    """Return the version of Python and a digest of what a callable does: its code, arguments and closed-over values.

    Neither the place of the code in its file, nor comments, nor its docstring count; functions and classes that it
    calls by a global name do not either. Values that calls change, such as a counter, are left out.
    """
    return f"{PYTHON}:{hashlib.sha256(repr(_seen(value, DEEPEST)).encode()).hexdigest()[:16]}"


def _seen(value: Any, depth: int) -> Any:
    """Return what tells a value from another as nested tuples of plain values."""
    if isinstance(value, PLAIN):
        return repr(value)
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, tuple):
        return ("tuple", *(_seen(part, depth - 1) for part in value))
    if isinstance(value, list):
        return ("list", *(_seen(part, depth - 1) for part in value))
    if isinstance(value, frozenset | set):
        return ("set", *sorted(repr(_seen(part, depth - 1)) for part in value))
    if isinstance(value, dict):
        return ("dict", *sorted(repr((_seen(key, 1), _seen(part, depth - 1))) for key, part in value.items()))
    if isinstance(value, CodeType):
        return _of_code(value, depth)
    if isinstance(value, functools.partial):
        named = tuple(sorted(value.keywords.items()))
        return ("partial", *(_seen(part, depth - 1) for part in (value.func, value.args, named)))
    if isinstance(value, MethodType):
        return ("method", _seen(value.__func__, depth - 1), _of_object(value.__self__, depth - 1))
    if isinstance(value, FunctionType):
        return _of_function(value, depth - 1)
    if type(value).__module__ in ("numpy", "torch") and hasattr(value, "shape"):
        return _of_array(value)
    if isinstance(value, type) or not callable(value):
        return name_of(value) if isinstance(value, type) else type(value).__qualname__
    return ("object", _of_object(value, depth - 1))


def _of_function(function: FunctionType, depth: int) -> Any:
    code = function.__code__
    written = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_DEREF"}
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    around = [(name, _held(_content(cell), [code], depth)) for name, cell in cells if name not in written]
    around += [(name, _seen(value, depth)) for name, value in _plain_globals(function)]
    named = tuple(sorted((function.__kwdefaults__ or {}).items()))
    return (
        "function",
        _of_code(code, depth),
        _seen(function.__defaults__, depth),
        _seen(named, depth),
        *around,
    )


def _held(value: Any, codes: Iterable[CodeType], depth: int) -> Any:
    """Return what tells a value that code holds from another; only its type, if the code seems to change it."""
    changed = not isinstance(value, PLAIN) and any(_changes(code) for code in codes)
    return type(value).__qualname__ if changed else _seen(value, depth)


def _changes(code: CodeType) -> bool:
    """Whether code assigns to elements or calls a method that changes an object in place, such as append or add_."""
    in_place = any(name in MUTATING or (name.endswith("_") and not name.startswith("_")) for name in code.co_names)
    return in_place or any(step.opname == "STORE_SUBSCR" for step in dis.get_instructions(code))


def _plain_globals(function: FunctionType) -> list[tuple[str, Any]]:
    """Return the numbers and texts that a function reads by a global name and does not write."""
    steps = list(dis.get_instructions(function.__code__))
    written = {step.argval for step in steps if step.opname == "STORE_GLOBAL"}
    read = sorted({step.argval for step in steps if step.opname == "LOAD_GLOBAL"} - written)
    found = [(name, function.__globals__.get(name)) for name in read]
    return [(name, value) for name, value in found if value is not None and isinstance(value, PLAIN)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _of_code(code: CodeType, depth: int) -> Any:
    inner = [_of_code(part, depth - 1) for part in code.co_consts if isinstance(part, CodeType) and depth > 1]
    return ("code", *((step.opname, _operand(step, depth)) for step in dis.get_instructions(code)), *inner)


def _operand(step: dis.Instruction, depth: int) -> Any:
    if isinstance(step.argval, CodeType):
        return "code"
    return _seen(step.argval, max(1, depth - 1))


def _of_object(value: Any, depth: int) -> Any:
    """Return the class of an object and its plain attributes, without those that its methods assign."""
    kind = value if isinstance(value, type) else type(value)
    methods = {name: part for name, part in vars(kind).items() if isinstance(part, FunctionType)}
    written = {
        step.argval
        for name, method in methods.items()
        if name not in ("__init__", "__post_init__")
        for step in dis.get_instructions(method.__code__)
        if step.opname == "STORE_ATTR"
    }
    held = {} if isinstance(value, type) else getattr(value, "__dict__", {})
    codes = [method.__code__ for name, method in methods.items() if name not in ("__init__", "__post_init__")]
    parts = [(name, _held(part, codes, depth)) for name, part in sorted(held.items()) if name not in written]
    call = methods.get("__call__")
    return (f"{kind.__module__}:{kind.__qualname__}", *parts, None if call is None else _seen(call, depth))


def _of_array(value: Any) -> Any:
    array = np.asarray(value.detach().cpu()) if hasattr(value, "detach") else np.asarray(value)
    return (str(array.dtype), array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
