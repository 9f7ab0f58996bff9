"""Densities from a user's own torch networks: `from_module`."""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from genmem.errors import ModelError
from genmem.models.base import DeepDensity, as_tensor, resolve_device
from genmem.models.coupling import some_rows
from genmem.models.custom_module import (
    Calls,
    Network,
    PerDraw,
    PerExample,
    Sampler,
    UserModule,
    blamed,
    trial_rows,
    try_module,
    try_scoring,
)
from genmem.models.fresh import check_callable, check_fresh, check_network
from genmem.models.state_checks import check_draws
from genmem.seeding import seed_for
from genmem.training.ensemble import isolated_streams

NAMES = {"network": "make_module", "sampler": "sample"}  # as `from_module` calls them


def from_module(
    make_module: Network,
    *,
    loss: PerExample,
    log_prob: PerExample | None = None,
    log_weights: PerDraw | None = None,
    sample: Sampler | None = None,
    bound: bool | None = None,
    epochs: int = 100,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    checkpoint_every: int | None = None,
    device: str = "auto",
    random_state: int = 0,
) -> "ModuleDensity":
    """Return a density made of any `torch.nn.Module`, to be fitted, scored and audited like the built-in ones.

    The functions receive the network as their first argument and examples x, float32 (batch, *event), and return
    results for each example separately: an audit compares what networks say about one example. Training is Adam on the
    mean of `loss`. log p is one of

    - `log_prob`: exact (one call for each example), or with `bound=True` the mean over calls of a lower bound;
    - `log_weights`: log of the mean of importance weights p(x, z) / q(z | x);
    - minus `loss` without either: a lower bound of log p (an ELBO), unless `bound=False` says it is log p itself. The
      loss must then be in nats, with all constants: a squared error is neither.

    Functions may draw random numbers from torch's global stream (`torch.randn`): they are seeded, and the same whatever
    the batch. Networks train side by side if torch.func can batch them: no Python control flow that depends on values,
    no `.item()`. Others train one after another, with one warning and the same results.

    A run can be resumed without passing the model again, by workers elsewhere or from the command line, only if all
    functions are importable (`package.module:name`); a lambda must be passed again. A run continues with another
    `sample` or `checkpoint_every`; it is refused if another function does something else than when it was planned.

    Args:
        make_module: called with the shape of an example; returns a fresh network every time, with weights drawn from
            torch's global stream. It must not return an existing network: each refit would start with what that
            network learned from the examples the refit leaves out.
        loss: `loss(network, x) -> (batch,)`, the training loss of each example.
        log_prob: `log_prob(network, x) -> (batch,)`, nats.
        log_weights: `log_weights(network, x, draws) -> (draws, batch)`, nats; independent draws of z.
        sample: `sample(network, n) -> (n, *event)`. Only `copies` of an audit needs it; it may be added on resume.
        bound: whether `log_prob`, or minus `loss`, is a lower bound of log p; reports then say so. None is true for
            minus loss (with a warning, because this is a guess) and false for `log_prob`.
        epochs: passes over the data.
        batch_size: examples per step.
        learning_rate: of Adam.
        checkpoint_every: epochs between the checkpoints of `trajectory_`; None keeps none.
        device: "cpu", "cuda", "cuda:1"...; "auto" is CUDA if available. The network is moved there.
        random_state: the seed of weights, minibatches and noise.

    Raises:
        ModelError: a function is missing or not callable, or functions contradict each other. `fit` and audits raise it
            if the network or a function violates the above.

    >>> import torch
    >>> def gaussian(shape): return torch.nn.ParameterDict({"mean": torch.zeros(shape)})
    >>> def nats(network, x): return 0.5 * ((x - network["mean"]) ** 2 + 1.8379).sum(-1)
    >>> model = from_module(gaussian, loss=nats, bound=False, epochs=20)
    >>> model.fit([[0.0, 1.0], [0.1, 1.1]]).score_samples([[0.0, 1.0]]).shape
    (1,)
    """
    if bound is None and log_prob is None and log_weights is None:
        warnings.warn(
            "log p is taken to be -loss, as a lower bound. Pass bound=True if the loss is one in nats (an ELBO), or "
            "bound=False if it is -log p itself; otherwise pass log_prob or log_weights.",
            stacklevel=2,
        )
    model = ModuleDensity(
        network=make_module,
        loss=loss,
        log_prob=log_prob,
        log_weights=log_weights,
        sampler=sample,
        bound=bound,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        checkpoint_every=checkpoint_every,
        device=device,
        random_state=random_state,
    )
    model.check_settings()
    return model


@dataclass(kw_only=True, eq=False, repr=False)
class ModuleDensity(DeepDensity):
    """The density that `from_module` returns; `network` is its `make_module`, `sampler` its `sample`."""

    free: ClassVar[frozenset[str]] = DeepDensity.free | {"sampler"}

    network: Network
    loss: PerExample
    log_prob: PerExample | None = None
    log_weights: PerDraw | None = None
    sampler: Sampler | None = None
    bound: bool | None = None

    @property
    def runs_user_code(self) -> bool:
        """Whether networks run code that genmem's own tests do not cover: always."""
        return True

    def make_module(self, event_shape: tuple[int, ...]) -> UserModule:
        """Return a fresh network for examples of this shape.

        Raises:
            ModelError: the user's function does not return a network with parameters to train.
        """
        with blamed(f"make_module({tuple(event_shape)})"):
            network = self.network(tuple(event_shape))
        check_network(network)
        calls = Calls(self.loss, self.log_prob, self.log_weights, self.sampler, self.bound)
        return UserModule(network, calls, tuple(event_shape))

    def resolve(self, X: NDArray[Any]) -> Self:
        """Return an unfitted copy, after a test of the network on a few examples.

        Raises:
            ModelError: the network or a function violates the contract of `from_module`.
        """
        self.check_settings()
        self._try(np.asarray(X))
        return self._copy()

    def _try(self, X: NDArray[Any]) -> None:
        device = resolve_device(self.device)
        x = trial_rows(as_tensor(X, torch.device("cpu"))).to(device, torch.float32)
        first, second = (self._made(i, X.shape[1:]).to(device) for i in range(2))
        check_fresh(first, second)
        check_draws(first, x)
        seed = seed_for(self.random_state, "trial")
        try_module(second, x, seed)
        try_scoring(second, some_rows(as_tensor(X, device)), seed)

    def _made(self, seed: int, event_shape: tuple[int, ...]) -> UserModule:
        with isolated_streams(torch.device("cpu"), seed_for(self.random_state, "trial", seed)):
            return self.recipe(event_shape, 1, seed=0).make_module()  # type: ignore[return-value]

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        super().check_settings()
        for name in ("network", "loss", "log_prob", "log_weights", "sampler"):
            makes = name == "network"
            check_callable(
                NAMES.get(name, name), getattr(self, name), needed=makes or name == "loss", makes_network=makes
            )
        if self.bound not in (None, True, False):
            raise ModelError(expected="bound to be None, True or False", got=repr(self.bound), do="Change bound.")
        if self.log_weights is not None and (self.log_prob is not None or self.bound):
            other = "log_prob" if self.log_prob is not None else "bound=True"
            raise ModelError(
                expected="one way to compute log p",
                got=f"log_weights and {other}",
                do="Keep log_weights for importance sampling, or the other for an exact log p or a bound.",
            )


def can_sample(model: Any) -> bool:
    """Return false for a network that was given without a function that samples it."""
    return not (isinstance(model, ModuleDensity) and model.sampler is None)
