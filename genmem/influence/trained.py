"""A network and the checkpoints of its training, from `fit` or from a training loop of the user's own."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.influence.states import reader_of, refuse_shared
from genmem.protocols import Brief
from genmem.training.trajectory import Checkpoint, Trajectory

Loss = Callable[[Any, Tensor], Tensor]
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Trained(Brief):
    """A network and the checkpoints of its training, for use in place of a fitted model.

    For a network of your own, pass the state dicts that you saved and the loss of each example:

        trained = genmem.Trained(network, states, loss=loss, learning_rate=1e-2, steps=[0, 100, 200], n_train=50)
        genmem.influence_scores(trained, X, Z)

    Settings are needed only by some weights of checkpoints: "equal" needs none, "lr" the learning rate, "complete" all
    three. "adam" also needs second moments: pass a `Trajectory` of `Checkpoint`s with `read_moments`.
    `Trained(fresh_module(model.recipe(event_shape, n_train, seed=0), 0), load_trajectory(folder))` is that of a run.

    Args:
        module: a network of the same architecture, on the device to compute on; its own weights are not used. One in
            DataParallel or torch.compile is unwrapped, and one in half precision is computed in float32.
        trajectory: its checkpoints; or state dicts in the order of training, each a copy, or .safetensors files of
            them. Prefixes that wrappers add to their keys are removed; half precision is converted.
        loss: `loss(network, x) -> (batch,)`, the loss that was trained, of each example; None: the network's forward
            pass returns it. The network is in evaluation mode. Random numbers come from torch's global stream.
        learning_rate: of the steps after each checkpoint: one number, or one for each. (SGD with momentum mu makes
            steps 1 / (1 - mu) as long.)
        steps: the number of optimizer steps before each checkpoint.
        n_train: the number of training examples.

    Raises:
        ModelError: a state is not one of this network, states share memory, or a setting has another length.

    >>> network = nn.Linear(2, 1)
    >>> states = [{"weight": torch.tensor([[w, 0.0]]), "bias": torch.zeros(1)} for w in (0.0, 0.5)]
    >>> trained = Trained(network, states, loss=lambda network, x: (network(x)[:, 0] - 1).square())
    >>> from genmem.influence import self_influence
    >>> self_influence(trained, [[1.0, 0.0], [0.0, 1.0]], weights="equal").round(3)
    array([10., 16.])
    """

    module: nn.Module
    trajectory: Trajectory | Any
    loss: Loss | None = field(default=None, kw_only=True)
    learning_rate: InitVar[float | Sequence[float] | None] = field(default=None, kw_only=True)
    steps: InitVar[Sequence[int] | None] = field(default=None, kw_only=True)
    n_train: InitVar[int | None] = field(default=None, kw_only=True)

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{type(self.module).__name__}, {self.trajectory.headline()}"

    def __post_init__(
        self, learning_rate: float | Sequence[float] | None, steps: Sequence[int] | None, n_train: int | None
    ) -> None:
        """Turn states into a trajectory, and check the rest."""
        object.__setattr__(self, "module", _unwrapped(self.module))
        _check_loss(self.loss)
        given = {"learning_rate": learning_rate, "steps": steps, "n_train": n_train}
        known = {name: value for name, value in given.items() if value is not None}
        if not isinstance(self.trajectory, Trajectory):
            object.__setattr__(self, "trajectory", _trajectory(self.module, self.trajectory, known))
        elif known:
            raise ModelError(
                expected="a Trajectory alone, which has its own learning rates, steps and n_train",
                got=f"also {', '.join(known)}",
                do="Leave them out, or pass a list of state dicts in place of the Trajectory.",
            )


def refuse_bare(model: Any) -> None:
    """Refuse a network, or checkpoints, without the other half of what `Trained` needs."""
    if isinstance(model, nn.Module):
        raise ModelError(
            expected="a fitted model, or a network together with the checkpoints of its training",
            got=f"the network {type(model).__name__} alone",
            do="Pass genmem.Trained(network, states, loss=loss): states is a list of copies of network.state_dict() "
            "from training, loss(network, x) returns the loss of each example.",
        )


def _unwrapped(module: Any) -> nn.Module:
    """Return the network inside DataParallel, DistributedDataParallel or torch.compile."""
    while isinstance(module, nn.Module):
        if "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module
    raise ModelError(
        expected="a torch.nn.Module, then its checkpoints",
        got=f"{type(module).__name__}",
        do="Pass Trained(network, states, loss=loss).",
    )


def _check_loss(loss: Any) -> None:
    if loss is None or (callable(loss) and not inspect.isclass(loss) and not isinstance(loss, nn.modules.loss._Loss)):
        return
    name = loss.__name__ if inspect.isclass(loss) else type(loss).__name__
    raise ModelError(
        expected="loss as a function: loss(network, x) returns the loss of each example, shape (batch,)",
        got=name,
        do="Write def loss(network, x): return (network(x) - x).square().flatten(1).sum(1), or the like.",
    )


def _trajectory(module: nn.Module, states: Any, known: Mapping[str, Any]) -> Trajectory:
    if isinstance(states, Mapping | nn.Module | str | PathLike):  # the final weights alone
        states = [states]
    if not isinstance(states, Iterable) or not (states := list(states)):
        raise ModelError(
            expected="a Trajectory, or a list of state dicts in the order of training",
            got="an empty list" if isinstance(states, list) else f"{type(states).__name__}",
            do="Save copy.deepcopy(network.state_dict()) during training and pass a list of these.",
        )
    if any(isinstance(state, Checkpoint) for state in states):
        raise ModelError(
            expected="a Trajectory, or a list of state dicts",
            got="a list of Checkpoints",
            do="Pass Trajectory(tuple(checkpoints), n_train, batch_size).",
        )
    readers = [reader_of(state, module, i) for i, state in enumerate(states)]
    in_memory = [not isinstance(state, str | PathLike) for state in states]
    refuse_shared([read() for read, held in zip(readers, in_memory, strict=True) if held])
    rates = _rates(known.get("learning_rate", math.nan), len(states))
    steps = _steps(known.get("steps", range(len(states))), len(states))
    found = [Checkpoint(i, step, rates[i], readers[i]) for i, step in enumerate(steps)]
    n_train = _count(known.get("n_train", 0), "n_train" in known)
    unknown = frozenset({"learning_rate", "steps", "n_train"} - known.keys())
    return Trajectory(tuple(found), n_train, 0, unknown)


def _rates(given: Any, n: int) -> list[float]:
    try:
        rates = np.asarray(given, np.float64)
        return [float(rate) for rate in (np.full(n, rates) if rates.ndim == 0 else _of_length(rates, n))]
    except (TypeError, ValueError) as error:
        raise _wrong("learning_rate", given, f"a number, or {n} of them") from error


def _steps(given: Any, n: int) -> list[int]:
    try:
        steps = _of_length(np.asarray(given), n)
        if steps.dtype.kind not in "iu" or (np.diff(steps.astype(np.int64)) <= 0).any() or steps[0] < 0:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise _wrong("steps", given, f"{n} increasing integers, the steps before each checkpoint") from error
    return [int(step) for step in steps]


def _of_length(values: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    if values.shape != (n,):
        raise ValueError
    return values


def _count(given: Any, known: bool) -> int:
    if known and (isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1):
        raise _wrong("n_train", given, "the number of training examples, an integer >= 1")
    return int(given)


def _wrong(name: str, given: Any, expected: str) -> ModelError:
    return ModelError(expected=f"{name}: {expected}", got=f"{given!r}", do=f"Correct {name}, or leave it out.")


def in_full_precision(module: nn.Module) -> nn.Module:
    """Convert the half-precision parameters and buffers of a network to float32, in place: gradients need it."""
    if any(value.dtype in HALF for value in (*module.parameters(), *module.buffers())):
        module._apply(lambda value: value.float() if value.dtype in HALF else value)  # type: ignore[no-untyped-call]
    return module
