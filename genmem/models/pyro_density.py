"""Any Pyro model/guide pair as a density."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from genmem.errors import DataError, ModelError
from genmem.models.base import DeepDensity, as_tensor, require
from genmem.models.fresh import check_fresh
from genmem.models.pyro_module import PairModule, own_state, reported
from genmem.models.pyro_sites import Program, check_points, structure, traces
from genmem.seeding import seed_for
from genmem.training.ensemble import Recipe, isolated_streams

CPU = torch.device("cpu")
FIRST_ROWS = 8  # number of rows that the pair is run on before training
VALIDATION = {"validate_distributions_pyro": True, "validate_distributions_torch": True}


class PairDensity(DeepDensity):
    """A density whose network is a Pyro model/guide pair, trained on `Trace_ELBO` example by example."""

    @abstractmethod
    def make_pair_for(self, event_shape: tuple[int, ...]) -> tuple[Program, Program]:
        """Return a fresh (model, guide) for examples of this shape."""

    def make_module(self, event_shape: tuple[int, ...]) -> PairModule:
        """Return a fresh network for training on one example (`recipe` knows the actual number)."""
        return self.network(event_shape, n_train=1)

    def network(self, event_shape: tuple[int, ...], n_train: int) -> PairModule:
        """Return a fresh network to be trained on `n_train` examples."""
        with own_state():
            model, guide = self.make_pair_for(event_shape)
        return PairModule(model, guide, event_shape, n_train)

    def recipe(self, event_shape: tuple[int, ...], n_keep: int, *, seed: int) -> Recipe:
        """Return the training recipe for models that each train on at least `n_keep` examples.

        Shared latents count 1 / n_keep in the loss of each example, in all of these models.
        """
        shape = tuple(event_shape)
        recipe = super().recipe(shape, n_keep, seed=seed)
        return replace(recipe, make_module=lambda: self.network(shape, n_keep))

    def resolve(self, X: NDArray[Any]) -> Self:
        """Return an unfitted copy, after a test run of the pair on a few examples.

        Raises:
            DataError: an example is outside the support of the model.
            ModelError: a setting is out of range, or the pair cannot be trained and scored by example.
        """
        resolved = super().resolve(X)
        x = as_tensor(np.asarray(X), CPU)
        check_pair(resolved, x[:FIRST_ROWS].to(torch.float32))
        if self.runs_user_code:
            with isolated_streams(CPU, seed_for(self.random_state, "trial")):
                module = resolved.network(tuple(x.shape[1:]), len(x))
            with reported("log p of some examples"):
                resolved.check_trained(module, x)
        return resolved


@dataclass(kw_only=True, eq=False, repr=False)
class PyroDensity(PairDensity):
    """The density of a Pyro model/guide pair: what `from_pyro` returns.

    Args:
        make_pair: `make_pair(event_shape) -> (model, guide)`, see `from_pyro`.
        epochs, batch_size, learning_rate, checkpoint_every, device, random_state: see `DeepDensity`.
    """

    make_pair: Callable[[tuple[int, ...]], tuple[Program, Program]]

    @property
    def runs_user_code(self) -> bool:
        """Whether networks run code that genmem's own tests do not cover: always."""
        return True

    def make_pair_for(self, event_shape: tuple[int, ...]) -> tuple[Program, Program]:
        """Return the result of `make_pair`.

        Raises:
            ModelError: it raises, or does not return a pair of callables.
        """
        with reported("make_pair to make a model and a guide"):
            pair = self.make_pair(tuple(event_shape))
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(callable, pair))):
            raise ModelError(
                expected="make_pair to return a model and a guide",
                got=type(pair).__name__,
                do="Return (model, guide): functions of x, or modules of torch.nn or pyro.nn.",
            )
        return pair[0], pair[1]

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        super().check_settings()
        require("make_pair", self.make_pair, callable, "a function of event_shape that returns (model, guide)")


def from_pyro(
    make_pair: Callable[[tuple[int, ...]], tuple[Program, Program]],
    *,
    epochs: int = 100,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    checkpoint_every: int | None = None,
    device: str = "auto",
    random_state: int = 0,
) -> PyroDensity:
    """Return a Pyro model/guide pair as a density that can be audited.

    `make_pair(event_shape)` returns a new (model, guide) in every call. Both take x, shape (batch, *event), and contain
    a plate named "data" over it; the model observes x in it, once. Each is a module of torch.nn or pyro.nn, a bound
    method of one, or a function that learns only through `pyro.param`.

    Training is stochastic variational inference with Adam: the losses of all examples add up to that of
    `pyro.infer.Trace_ELBO`. log p(x), in nats, is an importance estimate over an example's own latents, and an average
    over the guide's distribution of the latents that all examples share (the posterior predictive density); without
    latents it is exact. Samples are drawn in the same way.

    Args:
        make_pair: importable by name if runs are to be resumed without passing it again.
        epochs: passes over the data.
        batch_size: examples per step.
        learning_rate: of Adam.
        checkpoint_every: epochs between checkpoints; None keeps none.
        device: see `DeepDensity`.
        random_state: the seed of weights, minibatches and noise.

    References:
        Automated Variational Inference in Probabilistic Programming (Wingate & Weber, 2013),
        https://arxiv.org/abs/1301.1299
    """
    return PyroDensity(
        make_pair=make_pair,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        checkpoint_every=checkpoint_every,
        device=device,
        random_state=random_state,
    )


# --- the contract of a pair, checked before training


def check_pair(density: PairDensity, x: Tensor) -> None:
    """Run the pair of a density on a few examples, and on zeros and ones of their shape.

    Raises:
        DataError: an example is outside the support of the model.
        ModelError: the pair cannot be trained and scored by example.
    """
    shape = tuple(x.shape[1:])
    with isolated_streams(CPU, seed_for(0, "check of a pair")):
        module, another = density.network(shape, len(x)), density.network(shape, len(x))
        check_fresh(module, another, "make_pair")
        trial = torch.bernoulli(torch.full((3, *shape), 0.5))
        with reported("the model and the guide to run on 3 examples of zeros and ones"):
            _check_points(module, trial)
            _check_structure(module, trial)
            _check_learned(module, trial)
            _check_shared(module, trial)
        _check_support(module, x)


def _check_points(module: PairModule, x: Tensor) -> None:
    found = []
    module.eval()  # dropout does not make a draw of a point
    for seed in range(2):
        with isolated_streams(CPU, seed), module.running() as pair, torch.no_grad():
            found.append(traces(*pair, x))
    module.train()
    check_points(*found[0], found[1][1])


def _check_structure(module: PairModule, x: Tensor) -> None:
    """Check that another batch has the same sites, and that the observed values are x, not only of its shape."""
    with module.running() as pair, torch.no_grad():
        modelled, guided = traces(*pair, x)
        found = structure(modelled, guided, x)
    if found != module.structure:
        raise ModelError(
            expected="the same sites whatever x is", got=f"{found} after {module.structure}", do="Remove the branch."
        )


def _check_learned(module: PairModule, x: Tensor) -> None:
    """Check that the loss depends on no tensor outside the pair, which a refit would not reset."""
    known = {id(parameter) for parameter in module.parameters()}
    foreign = [leaf for leaf in _leaves(module(x).sum()) if id(leaf) not in known]
    if foreign:
        raise ModelError(
            expected="everything that is learned in pyro.param statements or in the modules of the pair",
            got=f"another tensor of shape {tuple(foreign[0].shape)} that requires a gradient",
            do="Return the torch.nn or pyro.nn module that holds it, or bound methods of it, instead of a function "
            "that refers to it (with or without pyro.module). In a PyroModule use PyroParam, not pyro.param.",
        )
    if not list(module.parameters()):
        raise ModelError(expected="a pair that learns something", got="no parameters", do="Use pyro.param or modules.")


def _leaves(loss: Tensor) -> list[Tensor]:
    found, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


def _check_shared(module: PairModule, x: Tensor) -> None:
    """Check that latents shared by all examples do not depend on the batch, so that they have one distribution."""
    drawn = []
    for batch in (x, 1 - x):
        with isolated_streams(CPU, 0), module.running() as pair, torch.no_grad():
            _, guided = traces(*pair, batch)
        drawn.append([guided.nodes[name]["value"] for name in module.structure.shared])
    for name, one, other in zip(module.structure.shared, *drawn, strict=True):
        if not torch.equal(one, other):
            raise ModelError(
                expected=f"the guide to draw {name!r}, which all examples share, whatever the batch is",
                got="other values for another batch",
                do='Draw it from parameters alone, or inside the plate "data" if each example has its own.',
            )


def _check_support(module: PairModule, x: Tensor) -> None:
    try:
        with module.running() as pair, torch.no_grad(), pyro.settings.context(**VALIDATION):
            traces(*pair, x)
    except ValueError as error:
        raise DataError(
            expected="examples that the model can generate",
            got=str(error).strip().splitlines()[-1] if str(error).strip() else "a ValueError",
            do="Check the observed distribution's support (binary, counts, reals...) against the data.",
        ) from error
