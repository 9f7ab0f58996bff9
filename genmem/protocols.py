"""What genmem expects of others, a density and a listener to progress, and what its own results show: `Brief`."""

import copy
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from genmem.errors import ModelError


@runtime_checkable
class Density(Protocol):
    """A probabilistic model of data; `KernelDensity` and `GaussianMixture` of scikit-learn are examples.

    `clone(model).fit(X[keep])` is a leave-out refit, so constructor arguments must be stored verbatim.
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to `X`, an array of shape (n, *event), and return self."""

    def score_samples(self, X: Any) -> Any:
        """Return log p(x) of every example of `X`: shape (n,), nats."""

    def sample(self, n_samples: int = 1) -> Any:
        """Return `n_samples` samples of the model."""


def draw(model: Density, n: int, seed: int) -> NDArray[Any]:
    """Return `n` samples of a fitted model, shape (n, *event): always an array and always seeded.

    Raises:
        ModelError: the samples of the model cannot be seeded.
    """
    if "random_state" in inspect.signature(model.sample).parameters:
        return _array(model.sample(n, random_state=seed))  # type: ignore[call-arg]
    if not hasattr(model, "random_state"):
        raise ModelError(
            expected="a model whose samples can be seeded",
            got=f"{type(model).__name__}.sample without random_state",
            do="Give `sample` a `random_state` argument, or the model a `random_state` attribute.",
        )
    seeded = copy.copy(model)
    seeded.random_state = seed
    return _array(seeded.sample(n))


def _array(samples: Any) -> NDArray[Any]:
    # GaussianMixture returns (samples, components).
    return np.asarray(samples[0] if isinstance(samples, tuple) else samples)


# --- progress


@dataclass(frozen=True)
class Progress:
    """One report of progress: `done` of `total` units of `stage`, and the current work as `detail`."""

    stage: str
    done: float
    total: float
    detail: str = ""


Listener = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Ignore all progress."""


# --- results


class Brief:
    """A result whose `repr` is at most five lines of 120 columns: its name and main figures, then its fields.

    Large arrays are shown by their shape and type, smaller ones by their range as well.
    """

    def __init_subclass__(cls, **how: Any) -> None:
        """Keep `dataclass` from writing a `repr` of every number; a class may have one of its own."""
        super().__init_subclass__(**how)
        if "__repr__" not in vars(cls):
            cls.__repr__ = Brief.__repr__  # type: ignore[method-assign]

    def headline(self) -> str:
        """Return the size and the main figures of the result, in a line."""
        return ""

    def __repr__(self) -> str:
        head = f"{type(self).__name__}: {self.headline()}".removesuffix(": ")
        lines = textwrap.wrap(head, _WIDE, subsequent_indent="  ", max_lines=_LINES - 2, placeholder=" ...")
        rest = _LINES - len(lines)
        said = "; ".join(_fields(self)) if is_dataclass(self) else ""
        below = textwrap.wrap(said, _WIDE - 2, max_lines=rest, placeholder=" ...")
        return "\n".join([*lines, *(f"  {line}" for line in below)])


_LINES, _WIDE = 5, 120
_RANGED = 1_000_000  # values of an array whose range is shown
_FEW, _SHORT = 6, 60  # entries and letters that are shown


def figure(value: float, interval: tuple[float, float] | None = None) -> str:
    """Return a number with four digits, and its interval if it has one.

    >>> figure(0.123456, (0.1, 0.2)), figure(float("nan"))
    ('0.1235 (0.1 to 0.2)', 'nan')
    """
    return f"{value:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval is not None else "")


def mean(values: NDArray[Any]) -> str:
    """Return the mean of numbers as a `figure`, "nan" if there are none or infinite ones of both signs."""
    with np.errstate(invalid="ignore"):
        return figure(float(np.mean(values))) if values.size else "nan"


def _fields(result: Any) -> Iterator[str]:
    for field in fields(result):
        value = getattr(result, field.name)
        if field.repr and value is not None and not callable(value):
            yield f"{field.name} {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, Brief):
        return f"({value.headline() or type(value).__name__})"
    if isinstance(value, bool | int | float | np.number):
        return str(value) if isinstance(value, bool | int) else figure(float(value))
    if isinstance(value, str):
        return repr(value if len(value) <= _SHORT else f"{value[:_SHORT]}...")
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{tuple(value.shape)} {value.dtype}{_range(value)}"
    if isinstance(value, tuple | list) and len(value) <= _FEW and all(isinstance(v, int | float) for v in value):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, tuple | list | frozenset | Mapping):
        return f"of {len(value):,}"
    return type(value).__name__


def _range(array: Any) -> str:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not 0 < array.size <= _RANGED:
        return ""
    known = array[np.isfinite(array)]
    return f" {figure(float(known.min()))} to {figure(float(known.max()))}" if known.size else " without finite values"
