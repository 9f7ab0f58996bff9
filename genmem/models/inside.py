"""What is inside a density: its own class beneath a subclass, and the densities that a wrapper holds."""

from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType
from typing import Any, TypeVar

import numpy as np
from sklearn.neighbors import KernelDensity

T = TypeVar("T")
_MOST = 10_000  # objects looked at in one density
_FOREIGN = ("builtins", "numpy", "scipy", "torch", "pandas", "pyarrow")  # hold numbers, no densities
_HARMLESS = ("get_params", "set_params", "sample", "score")  # may be overridden: no log p of a row depends on them


def plain_class(model: Any, kinds: Iterable[type]) -> type | None:
    """Return the one of `kinds` that a model is, or that a subclass leaves as it is; None if there is none.

    A subclass may have an `__init__`, more methods and another name. If it overrides a method that fits or scores, the
    numbers may be others.

    >>> class Mine(KernelDensity):
    ...     "Nothing but a name."
    >>> plain_class(Mine(), [KernelDensity]).__name__
    'KernelDensity'
    """
    family = type(model).__mro__
    for place, kind in enumerate(family):
        if kind in set(kinds):
            return kind if not any(_overrides(other, kind) for other in family[:place]) else None
    return None


def _overrides(other: type, kind: type) -> bool:
    """Whether a class defines anew what its base defines; scikit-learn itself adds `set_fit_request` and the like."""
    anew = (name for name in vars(other) if not name.startswith(("__", "set_", "_abc", "_parameter")))
    return any(hasattr(kind, name) for name in anew if name not in _HARMLESS)


def as_plain(model: Any, kind: type[T]) -> T:
    """Return the model as an object of the class itself, with the same settings and fitted attributes.

    >>> class Mine(KernelDensity):
    ...     def __init__(self, h):
    ...         super().__init__(bandwidth=h)
    >>> as_plain(Mine(2.0), KernelDensity).bandwidth
    2.0
    """
    if type(model) is kind:
        return model
    plain = object.__new__(kind)
    plain.__dict__.update(vars(model))
    return plain


def inside(model: Any, kind: type[T]) -> Iterator[T]:
    """Yield the objects of a class that a model is or holds, in attributes, containers, bound methods and closures."""
    waiting: list[Any] = [model]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            if isinstance(one, kind):
                yield one
            waiting += _parts(one)


def _parts(one: Any) -> list[Any]:
    if isinstance(one, dict):
        return list(one.values())
    if isinstance(one, list | tuple | set | frozenset) or (isinstance(one, np.ndarray) and one.dtype == object):
        return list(one)[:_MOST]
    if isinstance(one, MethodType):
        return [one.__self__]
    if isinstance(one, FunctionType):
        return [cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell)]
    if isinstance(one, type) or type(one).__module__.partition(".")[0] in _FOREIGN:
        return []
    slots = (name for kind in type(one).__mro__ for name in _slots(kind))
    return [*getattr(one, "__dict__", {}).values(), *(getattr(one, name, None) for name in slots)]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # the variable has no value yet
        return False


def _slots(kind: type) -> tuple[str, ...]:
    names = vars(kind).get("__slots__", ())
    return (names,) if isinstance(names, str) else tuple(names)


# --- the trees of kernel densities


def set_one_leaf(model: Any, n: int) -> None:
    """Let the `KernelDensity` objects a model is or holds build trees of one leaf of n examples when they are fitted.

    Trees with several leaves add and subtract bounds: in 64 dimensions, log p of a point away from the data was wrong
    by up to 68 nats. With one leaf every kernel is summed, which is no slower in many dimensions.
    """
    for kde in inside(model, KernelDensity):
        kde.leaf_size = max(n, kde.leaf_size)


def rebuild_in_one_leaf(fitted: Any) -> None:
    """Build the trees of fitted `KernelDensity` objects again, in place, if they have several leaves."""
    for kde in inside(fitted, KernelDensity):
        tree = getattr(kde, "tree_", None)
        if tree is not None and len(tree.get_arrays()[2]) > 1:
            rows = np.asarray(tree.data)
            kde.tree_ = type(tree)(
                rows,
                leaf_size=len(rows),
                metric=kde.metric,
                sample_weight=None if tree.sample_weight is None else np.asarray(tree.sample_weight),
                **(kde.metric_params or {}),
            )
