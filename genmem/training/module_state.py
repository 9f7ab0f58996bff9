"""What a network remembers outside its parameters and buffers: Python numbers, plain tensors, generators, closures.

Lanes share such state, and a state dict does not contain it. `slots` finds it by walking through attributes,
containers, hooks and the variables of functions; `poisons` are other values that show whether anything reads it.
"""

import copy
import functools
import itertools
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

MOST_OBJECTS = 20_000  # a walk ends there: nothing that large counts steps
FAR = 1_000_003  # a poisoned counter is past any warm-up
SKIPPED = {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_flat_weight_refs"}
PLAIN = (bool, int, float, str, bytes, complex, type(None), np.generic)
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
LIBRARIES = {"torch", "numpy", "scipy", "sklearn", "pyro", "diffusers", "genmem", *sys.stdlib_module_names} - {
    "__main__"
}


@dataclass(frozen=True)
class Slot:
    """One value outside parameters and persistent buffers: where it is, a copy, how to replace it, and the original."""

    path: str
    value: Any
    put: Callable[[Any], object]
    held: Any

    @property
    def draws(self) -> bool:
        """Whether it is the state of a random generator."""
        return isinstance(self.value, _Stream)


@dataclass(frozen=True)
class _Stream:
    """The state of a generator as bytes."""

    state: bytes


@dataclass(frozen=True)
class _Length:
    """The number of items of a container."""

    count: int


def slots(module: nn.Module) -> dict[str, Slot]:
    """Return all state outside the parameters and persistent buffers of a network, by path."""
    return {slot.path: slot for slot in _Walk(module).found()}


def changed(before: Mapping[str, Slot], after: Mapping[str, Slot]) -> list[Slot]:
    """Return the slots of `after` that are new or have another value than in `before`."""
    return [slot for path, slot in after.items() if path not in before or not same(before[path].value, slot.value)]


def same(one: Any, other: Any) -> bool:
    """Return whether two copied values are equal, NaN included; tensors up to their dtype."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and bool(torch.equal(_bytes(one), _bytes(other)))
    if isinstance(one, np.ndarray):
        return bool(one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes())
    return bool(one == other or (one != one and other != other))


def _bytes(value: Tensor) -> Tensor:
    return value.contiguous().view(-1).view(torch.uint8) if value.numel() else torch.empty(0, dtype=torch.uint8)


def copied(module: nn.Module) -> nn.Module:
    """Return a deep copy; tensors that were computed from parameters, such as an old `weight_norm` keeps, are detached.

    Raises:
        TypeError, RuntimeError: something in the network cannot be copied.
    """
    memo: dict[int, Any] = {}
    for value in _Walk(module).tensors():
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def detached(module: nn.Module) -> nn.Module:
    """Return the network itself, with tensors that were computed from its parameters detached: it can be copied."""
    for _, value, put in list(_Walk(module).leaves()):
        if isinstance(value, Tensor) and not value.is_leaf:
            put(value.detach())
    return module


# --- values that nothing would compute


def poisons(value: Any) -> list[Any]:
    """Return other values of a slot; a result that is the same with each of them does not depend on it."""
    if isinstance(value, _Length):
        return [_Length(value.count + FAR // 100)]
    if isinstance(value, _Stream):
        return [_Stream(b"")]
    if isinstance(value, Tensor):
        return _tensor_poisons(value)
    if isinstance(value, np.ndarray):
        return [(value + FAR).astype(value.dtype)] if value.dtype.kind in "iuf" else []
    if isinstance(value, bool | np.bool_):
        return [not value]
    if isinstance(value, int | np.integer):
        return [value + FAR, 0]
    return [0.5 * value + FAR, 0.0] if isinstance(value, float | np.floating) else []


def _tensor_poisons(value: Tensor) -> list[Tensor]:
    if value.dtype == torch.bool:
        return [~value]
    if value.is_floating_point() or value.is_complex():
        return [torch.full_like(value, torch.nan), 0.5 * value + 1000]
    return [value + 101]


# --- the walk


class _Walk:
    """Visits everything that a network refers to once, as (path, object, how to replace it)."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        registered = [*root.parameters(), *_persistent(root)]
        self._known = {id(value) for value in registered}
        self._memory = {_memory_of(value) for value in registered} - {0}
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # ids are unique only among objects that exist

    def tensors(self) -> Iterator[Tensor]:
        """Yield tensors that are neither parameters nor persistent buffers."""
        return (value for _, value, _ in self.leaves() if isinstance(value, Tensor))

    def found(self) -> Iterator[Slot]:
        """Yield the slots."""
        for path, value, put in self.leaves():
            yield _slot(path, value, put)

    def leaves(self) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
        """Yield values that contain no others, and containers: path, value, how to replace it."""
        waiting: deque[tuple[str, Any, Callable[[Any], None]]] = deque([("", self._root, _nowhere)])
        while waiting and len(self._seen) < MOST_OBJECTS:
            path, value, put = waiting.popleft()
            if isinstance(value, PLAIN):
                yield path, value, put
                continue
            if id(value) in self._seen or id(value) in self._known:
                continue
            self._seen.add(id(value))
            self._kept.append(value)
            if _is_leaf(value) and not self._is_alias(value):
                yield path, value, put
            if not isinstance(value, Tensor):
                waiting.extend(_inside(path, value))

    def _is_alias(self, value: Any) -> bool:
        """Return whether a tensor is the memory of a parameter or buffer, which is saved and restored with it."""
        return isinstance(value, Tensor) and value.is_leaf and _memory_of(value) in self._memory


def _memory_of(value: Tensor) -> int:
    return 0 if is_lazy(value) or value.layout != torch.strided else value.untyped_storage().data_ptr()


def _persistent(root: nn.Module) -> Iterator[Tensor]:
    for module in root.modules():
        for name, value in vars(module).get("_buffers", {}).items():
            if value is not None and name not in module._non_persistent_buffers_set:
                yield value


def _is_leaf(value: Any) -> bool:
    leaves = (Tensor, np.ndarray, *GENERATORS, list, dict, set, deque, itertools.count)
    return isinstance(value, leaves)


def _slot(path: str, value: Any, put: Callable[[Any], object]) -> Slot:
    if isinstance(value, Tensor):
        return Slot(path, value.detach().clone(), put, value)
    if isinstance(value, np.ndarray):
        return Slot(path, value.copy(), put, value)
    if isinstance(value, GENERATORS):
        stream = _Stream(_state_of(value))
        return Slot(path, stream, _reset(value), stream)
    if isinstance(value, list | dict | set | deque):
        length = _Length(len(value))
        return Slot(f"len({path})", length, lambda other: _resize(value, other.count), length)
    return Slot(path, repr(value) if isinstance(value, itertools.count) else value, put, value)


def _state_of(generator: Any) -> bytes:
    if isinstance(generator, torch.Generator):
        return bytes(generator.get_state().numpy().tobytes())
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state).encode()
    state = generator.get_state() if isinstance(generator, np.random.RandomState) else generator.getstate()
    return repr(tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in state)).encode()


def _reset(generator: Any) -> Callable[[_Stream], object]:
    """Return a function that gives a generator its present state back, or another for the stream of a poison."""
    if isinstance(generator, torch.Generator):
        before = generator.get_state()
        return lambda to: generator.set_state(before) if to.state else generator.manual_seed(FAR)
    if isinstance(generator, np.random.Generator):
        known, other = generator.bit_generator.state, type(generator.bit_generator)(FAR).state
        return lambda to: setattr(generator.bit_generator, "state", known if to.state else other)
    if isinstance(generator, np.random.RandomState):
        held = generator.get_state()
        return lambda to: generator.set_state(held) if to.state else generator.seed(FAR)
    kept = generator.getstate()
    return lambda to: generator.setstate(kept) if to.state else generator.seed(FAR)


def _resize(container: Any, count: int) -> None:
    """Lengthen a container by copies of an item, or by keys of ours, as if there had been many steps; or undo that."""
    ours = [(FAR, i) for i in range(count - len(container))]
    if isinstance(container, list | deque) and container:
        container.extend([container[-1]] * len(ours))
        while len(container) > count:
            container.pop()
    elif isinstance(container, dict) and container:
        container.update(dict.fromkeys(ours, next(iter(container.values()))))
        while len(container) > count:
            container.popitem()
    elif isinstance(container, set):
        container.update(ours)
        if not ours:
            container -= {item for item in container if isinstance(item, tuple) and item[:1] == (FAR,)}


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
    """Yield what an object refers to, except code of libraries."""
    if isinstance(value, nn.Module):
        yield from _of_module(path, value)
    elif isinstance(value, dict):
        yield from ((_item(path, key), item, _setter(value, key)) for key, item in list(value.items()))
    elif isinstance(value, list | deque):
        yield from ((f"{path}[{i}]", item, _setter(value, i)) for i, item in enumerate(list(value)))
    elif isinstance(value, tuple):
        yield from ((f"{path}[{i}]", item, _nowhere) for i, item in enumerate(value))
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, types.MethodType):
        yield from ((path, value.__self__, _nowhere), (path, value.__func__, _nowhere))
    elif isinstance(value, functools.partial):
        yield from ((path, value.func, _nowhere), (path, value.args, _nowhere), (path, value.keywords, _nowhere))
    elif isinstance(value, type):
        yield from _of_class(value)
    elif _is_object(value):
        yield from _of_object(path, value)


def _of_module(path: str, module: nn.Module) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
    state = vars(module)
    for registered in ("_parameters", "_buffers"):  # those of modules that are not registered themselves are state, too
        for name, value in state.get(registered, {}).items():
            yield _dot(path, name), value, _setter(state[registered], name)
    for name, value in list(state.items()):
        if name not in SKIPPED and not isinstance(module, torch.jit.ScriptModule):
            yield _dot(path, name), value, functools.partial(setattr, module, name)
    yield from ((_dot(path, name), child, _nowhere) for name, child in state.get("_modules", {}).items())
    yield from _its_class(module)


def _of_object(path: str, value: Any) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
    state = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        state |= {n: getattr(value, n) for n in ([names] if isinstance(names, str) else names) if hasattr(value, n)}
    for name, item in state.items():
        yield _dot(path, name), item, functools.partial(_set, value, name)
    yield from _its_class(value)


def _its_class(value: Any) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
    """Yield the classes that others wrote: methods have global variables, and classes have attributes."""
    yield from ((kind.__name__, kind, _nowhere) for kind in type(value).__mro__ if not _of_library(kind.__module__))


def _of_class(kind: type) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
    if _of_library(kind.__module__):
        return
    for name, value in list(vars(kind).items()):
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, types.FunctionType):
            yield f"{kind.__name__}.{name}", function, _nowhere
        elif not (name.startswith("__") or isinstance(value, type)):
            yield f"{kind.__name__}.{name}", value, functools.partial(_set, kind, name)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
    """Yield the variables of a function from around it: its closure, defaults and attributes, and globals it names."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents, functools.partial(setattr, cell, "cell_contents")
        except ValueError:  # not assigned yet
            continue
    yield f"defaults of {function.__name__}", function.__defaults__ or (), _nowhere
    yield f"defaults of {function.__name__}", function.__kwdefaults__ or {}, _nowhere
    for name, value in list(vars(function).items()):
        yield f"{function.__name__}.{name}", value, functools.partial(setattr, function, name)
    if not _of_library(function.__module__):
        for name in _names(code):
            if name in function.__globals__ and not isinstance(function.__globals__[name], types.ModuleType):
                yield name, function.__globals__[name], _setter(function.__globals__, name)


def _names(code: types.CodeType) -> set[str]:
    """Return the global names of a function and of the functions inside it."""
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_object(value: Any) -> bool:
    """Return whether an object's attributes may be state: not of libraries, but for those torch hooks modules with."""
    home = type(value).__module__ or ""
    return not _of_library(home) or home.startswith(("torch.nn.utils", "torch.distributions", "genmem", "types"))


def _of_library(home: str | None) -> bool:
    return (home or "").split(".")[0] in LIBRARIES


def _dot(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _item(path: str, key: object) -> str:
    return f"{path}[{key!r}]" if isinstance(key, str | int) else f"{path}[{type(key).__name__}]"


def _setter(container: Any, key: Any) -> Callable[[Any], None]:
    return functools.partial(container.__setitem__, key)


def _set(value: Any, name: str, new: Any) -> None:
    """Replace an attribute, of a frozen dataclass too."""
    setattr(value, name, new) if isinstance(value, type) else object.__setattr__(value, name, new)


def _nowhere(_: Any) -> None:
    """Replace nothing: the place cannot be assigned to."""
