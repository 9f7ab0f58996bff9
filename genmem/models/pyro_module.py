"""A Pyro model/guide pair as a network that obeys the contract of `DeepDensity`."""

import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Transform

from genmem.errors import GenmemError, ModelError
from genmem.models.evaluation import DRAWS
from genmem.models.fresh import check_precision
from genmem.models.pyro_sites import (
    PLATE,
    Program,
    Terms,
    frame_of,
    from_plate,
    structure,
    terms,
    traces,
    value_of,
)

NO_VALIDATION = dict.fromkeys(
    ("validate_distributions_pyro", "validate_distributions_torch", "validate_infer", "validate_poutine"), False
)
ON_ZEROS = "the model and the guide to run on 2 examples of zeros"
OF_MODULE = "$$$"  # in the names under which `pyro.module` registers the parameters of a network
_pyro_in_use = threading.RLock()


@contextmanager
def own_state() -> Iterator[ParamStoreDict]:
    """Give the block an empty parameter store, and turn validation off; then restore Pyro's global state.

    Validation depends on values, which `torch.func.vmap` does not allow. Parameters of a `PyroModule` stay its own: in
    the store, two modules with a parameter of the same name would share it. One thread at a time is inside.
    """
    with _pyro_in_use:
        store = pyro.get_param_store()
        before = dict(vars(store))
        vars(store).update(vars(ParamStoreDict()))
        try:
            with pyro.settings.context(module_local_params=True, **NO_VALIDATION):
                yield store
        finally:
            vars(store).update(before)


class PairModule(nn.Module):
    """The network of a model/guide pair, with everything that either learns as parameters of this module.

    `nn.Module`s (and those whose bound methods are given) become submodules. The unconstrained values of bare
    `pyro.param` statements, created by running the pair once, become parameters. In every call the values are put into
    Pyro's parameter store, so that `torch.func.functional_call` can replace them.

    Args:
        model, guide: take x (batch, *event) and contain a plate "data" over it.
        event_shape: the shape of an example.
        n_train: number of training examples: shared latents count 1 / n_train in the loss of each.

    Raises:
        ModelError: the pair raises, or cannot be trained and scored by example.
    """

    n_train: Tensor
    loops_over_draws = True  # the pair runs once for each draw

    def __init__(self, model: Program, guide: Program, event_shape: tuple[int, ...], n_train: int) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.register_buffer("n_train", torch.tensor(float(n_train)))
        self.owners = nn.ModuleList()
        self._model, self._guide = self._held(model), self._held(guide)
        self.values = nn.Module()
        self._constraints: dict[str, Any] = {}
        check_precision(self.owners, "make_pair")
        self._initialise()

    def forward(self, x: Tensor, draws: int = 1) -> Tensor:
        """Return minus the evidence lower bound of each example, averaged over draws: (batch,), nats.

        Its sum over all training examples is the loss of `pyro.infer.Trace_ELBO`.
        """
        losses = torch.stack([self._loss(x) for _ in range(draws)])
        return losses.mean(0)

    def log_weights(self, x: Tensor, draws: int = 1) -> Tensor:
        """Return logs of unbiased estimates of p(x), one per draw: (draws, batch), nats.

        Latents of an example: log p(x, z) - log q(z | x) with z ~ q. Shared latents: theta ~ q(theta) for each row,
        and log p(x | theta): p(x) is the density of a new example under the fitted q(theta), so log p(theta) -
        log q(theta) is not part of it. Neither: one row, log p(x). Scales of `poutine.scale` do not count here.
        """
        if self.estimate == "exact":
            return self._terms(x, scaled=False).local[None]
        if self.structure.shared:
            return torch.stack([self._terms(x, scaled=False).local for _ in range(draws)])
        parts = [min(DRAWS, draws - first) for first in range(0, draws, DRAWS)]
        return torch.cat([self._many(x, count) for count in parts])

    def sample(self, n: int) -> Tensor:
        """Return n draws of x: (n, *event); each with its own draw of the shared latents."""
        each = [1] * n if self.structure.shared else [n]
        with self.running() as (model, guide):
            return torch.cat([self._drawn(model, guide, count) for count in each])

    @property
    def estimate(self) -> str:
        """The meaning of the mean of the log weights: "importance", or "exact" for a pair without latents."""
        return "importance" if self.structure.local or self.structure.shared else "exact"

    def _loss(self, x: Tensor) -> Tensor:
        found = self._terms(x, scaled=True)
        return -found.local - found.shared / (self.total or self.n_train)

    def _terms(self, x: Tensor, *, scaled: bool) -> Terms:
        with self.running() as (model, guide):
            return terms(*traces(model, guide, x), len(x), scaled=scaled)

    def _many(self, x: Tensor, draws: int) -> Tensor:
        """Return log weights for latents of single examples: all draws are examples side by side."""
        found = self._terms(x.repeat(draws, *[1] * (x.dim() - 1)), scaled=False).local
        return found.view(draws, len(x))

    def _drawn(self, model: Program, guide: Program, n: int) -> Tensor:
        x = self.n_train.new_zeros(n, *self.event_shape)
        shared = {}
        if self.structure.shared:
            guided = poutine.trace(guide).get_trace(x)
            shared = {name: value_of(guided, name) for name in self.structure.shared}
        with _Generate(self.structure.observed):
            modelled = poutine.trace(poutine.condition(model, data=shared)).get_trace(x)
        site = modelled.nodes[self.structure.observed]
        return from_plate(site, value_of(modelled, self.structure.observed)).view(n, *self.event_shape)

    # --- what the pair learns

    def _held(self, program: Program) -> tuple[int | None, Any]:
        """Register the network a program belongs to; return its number and the method, or None and the function."""
        bound = isinstance(program, types.MethodType)
        owner = program.__self__ if isinstance(program, types.MethodType) else program
        if not isinstance(owner, nn.Module):
            return None, program
        known = [i for i, other in enumerate(self.owners) if other is owner]
        if not known:
            self.owners.append(owner)
        return (known or [len(self.owners) - 1])[0], program.__func__ if bound else None  # type: ignore[attr-defined]

    def _program(self, held: tuple[int | None, Any]) -> Program:
        owner, what = held
        if owner is None:
            return what  # type: ignore[no-any-return]
        module = self.owners[owner]
        return module if what is None else types.MethodType(what, module)

    @contextmanager
    def running(self) -> Iterator[tuple[Program, Program]]:
        """Yield model and guide, with the current values of the bare parameters in the store."""
        with own_state() as store, self._forgetting():
            values = {name: getattr(self.values, _escaped(name)) for name in self._constraints}
            store.set_state({"params": values, "constraints": dict(self._constraints)})
            with _KeepModules():
                yield self._program(self._model), self._program(self._guide)
            if new := set(store.keys()) - set(values):
                raise _late_parameters(new)

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Empty the caches of Pyro's transforms, which identify a tensor by identity and do not see new parameters."""
        _forget(self)
        try:
            yield
        finally:
            _forget(self)

    def _initialise(self) -> None:
        """Run the pair once on zeros, which creates its bare parameters and shows its structure."""
        x = torch.zeros(2, *self.event_shape)
        with own_state() as store, self._forgetting(), _KeepModules(), torch.no_grad(), reported(ON_ZEROS):
            found = traces(self._program(self._model), self._program(self._guide), x)
            for name, value in store.named_parameters():
                self.values.register_parameter(_escaped(name), nn.Parameter(value.detach().clone()))
            self._constraints = dict(store.get_state()["constraints"])
            self.structure = structure(*found, x)
        full = frame_of(found[0].nodes[self.structure.observed]).full_size
        self.total = None if full == len(x) else full  # of a plate with a fixed number of examples


class _KeepModules(Messenger):
    """Answers `pyro.module` with the network's current parameters, which are registered already."""

    def _pyro_param(self, msg: Any) -> None:
        if OF_MODULE in msg["name"]:
            msg["value"], msg["done"] = msg["args"][1], True


class _Generate(Messenger):
    """Draws one observed site again."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.name:
            msg["value"], msg["is_observed"], msg["done"] = None, False, False


@contextmanager
def reported(expected: str) -> Iterator[None]:
    """Turn whatever a pair raises into a ModelError that says what was expected of the pair."""
    try:
        yield
    except GenmemError:
        raise
    except Exception as error:  # the user's code
        raise ModelError(
            expected=expected,
            got=f"{type(error).__name__}: {error}",
            do=f'Both take x alone, (batch, *event), float32; the plate "{PLATE}" has len(x) places.',
        ) from error


def _forget(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, Transform):
            for name in [name for name in vars(part) if name.startswith("_cache") and name != "_cache_size"]:
                setattr(part, name, (None, None) if name == "_cached_x_y" else None)


def _escaped(name: str) -> str:
    """Return a valid name for a parameter of a module: without dots, and not that of a method."""
    return ":" + name.replace("%", "%25").replace(".", "%2E")


def _late_parameters(names: set[str]) -> ModelError:
    return ModelError(
        expected="every pyro.param statement to run in the first call",
        got=f"a later call with {', '.join(sorted(map(repr, names)))}",
        do="Create parameters whatever the values of x are.",
    )
