"""The interface of scikit-learn's densities over a torch network that has a log-likelihood or a bound on it."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from torch import Tensor, nn

from genmem.data.arrays import as_array, checked_examples, require_shape
from genmem.data.examples import Data
from genmem.errors import ModelError
from genmem.models.coupling import check_scoring, some_rows
from genmem.models.evaluation import LogProbs, log_prob
from genmem.models.lazy import initialised
from genmem.models.state_checks import check_state
from genmem.seeding import seed_for
from genmem.training.ensemble import Lane, Recipe, batches, isolated_streams, train
from genmem.training.trajectory import Checkpoint, State, Trajectory, remember


@dataclass(kw_only=True, eq=False, repr=False)
class DeepDensity(BaseEstimator, ABC):  # type: ignore[misc]
    """A density over a `torch.nn.Module`; subclasses define how the network is created.

    The network of `make_module(event_shape)` obeys this contract:

    - `module(x, draws=1) -> (batch,)`: the training loss of each example, nats, averaged over draws;
    - `module.log_weights(x, draws) -> (draws, batch)`: log importance weights; log p = logmeanexp over
      draws. Exact models return one row;
    - optionally `module.estimate`: "importance", "exact", or "bound" if each row is an unbiased estimate of a lower
      bound of log p: log p is then reported as their mean, and called a bound;
    - `module.sample(n) -> (n, *event)`;
    - optionally `noise_shape`: then both calls take standard normal `noise` of shape (draws, batch,
      *noise_shape), and lanes of several repeats may share a batch.

    `example_kind` says what an example must be: "any", "vector", "image" ((h, w) or (h, w, 3)) or
    "image or vector". `free` names the settings that change neither training nor log p: a run may be resumed with
    others.

    A subclass declares its own settings as fields, under the same `@dataclass` as this class, or writes an `__init__`
    that passes the others to this one. Either way they are stored as given, as scikit-learn's `clone` requires, and
    checked by `resolve`.

    Args:
        epochs: passes over the data.
        batch_size: examples per step.
        learning_rate: of Adam.
        checkpoint_every: epochs between the checkpoints of `trajectory_`; None keeps none.
        device: "cpu", "cuda", "cuda:1"...; "auto" is CUDA if available.
        random_state: the seed of weights, minibatches and noise.

    Attributes:
        module_: the trained network, in evaluation mode.
        settled_: the unfitted model with the settings that the data determine (see `resolve`).
        event_shape_: the shape of an example.
        n_train_: the number of examples trained on.
        trajectory_: its checkpoints, the untrained network first; None without `checkpoint_every`.
    """

    example_kind: ClassVar[str] = "any"
    free: ClassVar[frozenset[str]] = frozenset({"checkpoint_every"})

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    checkpoint_every: int | None = None
    device: str = "auto"
    random_state: int = 0

    @property
    def runs_user_code(self) -> bool:
        """Whether networks run code that genmem's own tests do not cover."""
        return type(self).__module__.partition(".")[0] != "genmem"

    @abstractmethod
    def make_module(self, event_shape: tuple[int, ...]) -> nn.Module:
        """Return a fresh network for examples of this shape; it draws weights from torch's global stream."""

    @classmethod
    def suited(cls, data: Data, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return settings that suit the data as loaded; those `given` override them.

        Called if a built-in density is requested by name, with the seed that the data are prepared with.
        """
        return {}

    def resolve(self, X: NDArray[Any]) -> Self:
        """Return an unfitted copy whose settings no longer depend on the data.

        Called with *all* the data before any example is left out, so that every refit has the same settings.

        Raises:
            DataError: the model does not accept these data.
            ModelError: a setting is out of range.
        """
        self.check_settings()
        return self._copy()

    def _copy(self) -> Self:
        copied: Self = clone(self)
        if hasattr(self, "made_by"):  # the plan records how a factory made it
            copied.made_by = self.made_by
        return copied

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Train on X, shape (n, *event); `y` is ignored.

        Raises:
            DataError: the model does not accept these data.
            ModelError: a setting is out of range, or training diverged.
        """
        array = as_array(X)
        examples = checked_examples(array)
        settled = self.resolve(array)
        recipe = settled.recipe(array.shape[1:], len(array), seed=self.random_state)
        tensor = as_tensor(examples, recipe.device)
        check_state(recipe, tensor)
        kept: list[Checkpoint] = []
        squares: dict[int, State] = {}

        def remember_moments(epoch: int, _: int, moments: State) -> None:
            squares[epoch] = moments

        def remember_it(epoch: int, _: int, module: nn.Module) -> None:
            step, rate, moments = epoch * recipe.steps_per_epoch, recipe.learning_rate, squares.pop(epoch)
            kept.append(remember(module, epoch=epoch, step=step, learning_rate=rate, moments=moments))

        self.module_ = train(
            recipe,
            tensor,
            [Lane(keep=np.arange(len(array)), split=0, repeat=0)],
            batched=False,
            on_epoch=remember_it,
            on_moments=remember_moments,
            at_epochs=self._checkpoint_epochs(),
        )[0].eval()
        _refuse_diverged(self.module_)
        settled.check_trained(self.module_, as_tensor(examples, recipe.device))
        self.settled_, self.event_shape_, self.n_train_ = settled, array.shape[1:], len(array)
        self.trajectory_ = Trajectory(tuple(kept), len(array), recipe.batch_size) if kept else None
        return self

    def check_trained(self, module: nn.Module, X: Tensor) -> None:
        """Check log p of a network that runs code of a user: of an example alone, in full precision.

        Raises:
            UnfitToScore: see `check_scoring`.
        """
        if self.runs_user_code:
            check_scoring(module, some_rows(X), seed_for(self.random_state, "trial"))

    def restore(self, state: Mapping[str, Tensor], event_shape: tuple[int, ...], n_train: int) -> Self:
        """Restore the model that had this state dict, fitted to `n_train` examples; the trajectory is not restored.

        Raises:
            RuntimeError: the state belongs to another network.
        """
        recipe = self.recipe(event_shape, n_train, seed=self.random_state)
        self.module_ = recipe.make_module().to(recipe.device).eval()
        self.module_.load_state_dict(state, strict=True)
        self.settled_, self.event_shape_, self.n_train_, self.trajectory_ = self, event_shape, n_train, None
        return self

    def recipe(self, event_shape: tuple[int, ...], n_keep: int, *, seed: int) -> Recipe:
        """Return the training recipe for models that each train on at least `n_keep` examples."""
        size, steps = batches(n_keep, self.batch_size)
        return Recipe(
            make_module=lambda: initialised(self.make_module(tuple(event_shape)), tuple(event_shape)),
            epochs=self.epochs,
            batch_size=size,
            steps_per_epoch=steps,
            learning_rate=self.learning_rate,
            seed=seed,
            device=resolve_device(self.device),
        )

    def score_samples(self, X: ArrayLike, importance_samples: int = 64) -> NDArray[np.float64]:
        """Return log p(x) of each row of X: shape (n,), nats, by `importance_samples` draws unless it is exact.

        Draws derive from (random_state, row), so the result does not depend on how rows are batched. Columns that
        were constant when the model was fitted may not be part of its density: most models leave them out.

        Raises:
            DataError: X is not an array of examples, or has another shape than in `fit`.
            ModelError: the model is not fitted, or `importance_samples` is less than 1.
        """
        return self._log_probs(X, importance_samples).log_prob

    def _log_probs(self, X: ArrayLike, importance_samples: int) -> LogProbs:
        self._check_fitted()
        require("importance_samples", importance_samples, is_count, "an integer >= 1")
        device = next(self.module_.parameters()).device
        x = as_tensor(as_array(X), device)
        require_shape(x.shape[1:], self.event_shape_)
        return log_prob(self.module_, x, draws=importance_samples, seed=self.random_state)

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> NDArray[np.float32]:
        """Return draws from the model: shape (n_samples, *event).

        Raises:
            ModelError: the model is not fitted, or `n_samples` is not an integer of at least 1.
        """
        self._check_fitted()
        require("n_samples", n_samples, is_count, "an integer >= 1")
        device = next(self.module_.parameters()).device
        seed = seed_for(self.random_state if random_state is None else random_state, "samples")
        with torch.no_grad(), isolated_streams(device, seed):
            drawn: NDArray[np.float32] = self.module_.sample(n_samples).cpu().numpy()  # type: ignore[operator]
        return drawn

    def _checkpoint_epochs(self) -> list[int]:
        if self.checkpoint_every is None:
            return []
        return sorted({*range(0, self.epochs + 1, self.checkpoint_every), self.epochs})

    def _check_fitted(self) -> None:
        if not hasattr(self, "module_"):
            raise ModelError(
                expected=f"a fitted {type(self).__name__}", got="an unfitted one", do="Call `fit(X)` first."
            )

    def check_settings(self) -> None:
        """Raise a ModelError if a setting is out of range."""
        if "epochs" not in vars(self):
            raise ModelError(
                expected="settings that the constructor stored",
                got=f"{type(self).__name__} without any",
                do="Call super().__init__(...) in its __init__, or declare its settings as fields of a dataclass.",
            )
        for name in ("epochs", "batch_size"):
            require(name, getattr(self, name), is_count, "an integer >= 1")
        require("random_state", self.random_state, is_seed, "an integer >= 0")
        positive = isinstance(self.learning_rate, int | float) and 0 < self.learning_rate < float("inf")
        require("learning_rate", self.learning_rate, lambda _: positive, "a number > 0")
        if self.checkpoint_every is not None:
            require("checkpoint_every", self.checkpoint_every, is_count, "None or an integer >= 1")
        resolve_device(self.device)


def _refuse_diverged(module: nn.Module) -> None:
    if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
        raise ModelError(
            expected="training to converge",
            got="weights that are not finite",
            do="Lower the learning rate, or check the data for extreme values.",
        )


def is_count(value: Any) -> bool:
    """Return whether a value is an integer of at least 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def is_seed(value: Any) -> bool:
    """Return whether a value is an integer of at least 0."""
    return is_count(value) or (isinstance(value, int | np.integer) and int(value) == 0)


def are_counts(value: Any, least: int = 1) -> bool:
    """Return whether a value is a list of integers of at least 1, with at least so many of them."""
    several = isinstance(value, Sequence) and not isinstance(value, str) and len(value) >= least
    return several and all(is_count(item) for item in value)


def are_numbers(value: Any, *, above: float = -math.inf) -> bool:
    """Return whether a value is None, a finite number above a bound, or a list of such numbers, which may be empty."""
    if value is None:
        return True
    if isinstance(value, str | bool):
        return False
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return False
    return numbers.ndim <= 1 and bool((np.isfinite(numbers) & (numbers > above)).all())


def are_pairs(value: Any) -> bool:
    """Return whether a value is None or a list of pairs."""
    return value is None or (isinstance(value, Sequence) and all(np.shape(pair) == (2,) for pair in value))


def require(name: str, value: Any, holds: Callable[[Any], bool], expected: str) -> None:
    """Check a setting of a model.

    Raises:
        ModelError: `holds(value)` is false.
    """
    if isinstance(value, bool) or not holds(value):
        raise ModelError(expected=f"{name} to be {expected}", got=repr(value), do=f"Change {name}.")


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a name; "auto" is CUDA if available.

    Raises:
        ModelError: the device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        if found.type not in ("cpu", "cuda"):
            raise RuntimeError("not a device genmem computes on")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ModelError(
            expected='a device of this machine ("cpu", "cuda", "cuda:1", or "auto")',
            got=repr(device),
            do="Change the device; without CUDA, use cpu.",
        ) from error
    return found


def as_tensor(X: NDArray[Any], device: torch.device) -> Tensor:
    """Return the examples as a tensor on `device`: uint8 stays uint8 (batches are cast), other types become float32.

    Raises:
        DataError: X is not an array of examples that float32 can represent and distinguish (see `checked_examples`).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(checked_examples(X)).to(device)
