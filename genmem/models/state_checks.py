"""What a network remembers outside its state dict: a restored network would have another log p, so it is refused.

The network trains for a few steps. Then its state dict is loaded into a fresh one, as `load_model` and refits do, and
log p has to be the same. Effects that show after many steps are found by replacing what has changed.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.training.agreement import Inputs, trial_inputs
from genmem.training.ensemble import Recipe, fresh_module, isolated_streams
from genmem.training.module_state import Slot, changed, copied, slots
from genmem.training.state_effects import Effects, Trial, alike, close, effects, trial_noise
from genmem.training.steppers import OneLane

STEPS = 3
OURS = {"genmem", "torch", "diffusers"}
OF_YOURS = {"genmem.models.custom_module", "genmem.models.pyro_module"}  # modules around functions of users
REGISTER = (
    "Register it as a buffer (self.register_buffer(name, tensor)) and update that in forward: a state dict keeps it."
)


def check_state(recipe: Recipe, X: Tensor) -> None:
    """Check that a state dict is all that log p of a trained network depends on, and that refits share nothing.

    Networks of genmem are not tried. A network that does not run raises its own error when it is trained.

    Raises:
        ModelError: log p depends on other state, which the message names; refits would share state; results differ
            from one time to the next; or the network cannot be copied.
    """
    first = fresh_module(recipe, 0)
    if not _of_others(first):
        return
    with _global_streams_put_back():
        try:
            other, inputs = fresh_module(recipe, 1), trial_inputs(recipe, X, 1, STEPS)
            others = slots(other)
            before = slots(first)
            losses = _trained(first, recipe, inputs)
            trial = Trial(inputs[-1][0][0], None if inputs[-1][1] is None else inputs[-1][1][0])
            trial.score(first)
        except Exception:  # the error is reported where training begins, with its own message
            return
        _check_copies(first)
        found = changed(before, slots(first))
        shared = {slot.path for slot in changed(others, slots(other))}
        _check_generators(found)
        depends = effects(first, found, trial)
        _check_shared([effect for effect in depends if effect.slot.path in shared])
        _check_repeatable(recipe, inputs, trial, first, losses)
        _load(first.state_dict(), other)
        _check_restored(first, other, trial, [effect.slot for effect in depends if effect.score])


def check_draws(module: nn.Module, x: Tensor) -> None:
    """Check that a network computes the same log p twice from the same seed of torch's global stream.

    Raises:
        ModelError: it draws from another stream, or its log p changes with every call.
    """
    with _global_streams_put_back():
        before, streams = slots(module), _global_streams()
        trial = Trial(x, trial_noise(module, len(x), x.device))
        try:
            trial.loss(module)
            one, other = trial.score(module), trial.score(module)
        except Exception:  # the checks of its functions report what they raise
            return
        _check_generators(changed(before, slots(module)))
        if not close(one, other):
            _refuse_draws("the same log p of a network twice from the same seed", streams)


def _of_others(module: nn.Module) -> bool:
    """Return whether code of others computes a network's results."""
    homes = {type(part).__module__ for part in module.modules()}
    return bool(homes & OF_YOURS) or any(home.split(".")[0] not in OURS for home in homes)


def _trained(module: nn.Module, recipe: Recipe, inputs: Inputs) -> list[Tensor]:
    """Train a network on a few minibatches; return the losses of each."""
    lane, found = OneLane(module.train(), recipe.learning_rate), []
    with isolated_streams(recipe.device, 0):
        for x, noise in inputs:
            found.append(lane.losses(x, noise).detach())
            lane.step(x, noise)
    return found


def _check_copies(module: nn.Module) -> None:
    try:
        copied(module)
    except Exception as error:  # whatever an object in the network raises
        raise ModelError(
            expected="a network that copy.deepcopy can copy",
            got=f"{type(error).__name__}: {error}",
            do="Keep files, locks, generators and compiled functions out of the network's attributes.",
        ) from error


def _check_generators(found: list[Slot]) -> None:
    if drawing := [slot.path for slot in found if slot.draws]:
        raise ModelError(
            expected="a network that draws random numbers from torch's global stream, which is seeded for each refit",
            got=f"draws from a generator of its own, {drawing[0]}",
            do="Use torch.randn, rsample or dropout without a generator.",
        )


def _check_repeatable(recipe: Recipe, inputs: Inputs, trial: Trial, first: nn.Module, losses: list[Tensor]) -> None:
    """Check that a second network from the same seeds has the same losses and log p."""
    streams, again = _global_streams(), fresh_module(recipe, 0)
    repeated = _trained(again, recipe, inputs)
    agree = all(close(one, other) for one, other in zip(losses, repeated, strict=True))
    if agree and close(trial.score(first), trial.score(again)):
        return
    _refuse_draws("the same losses and log p of two networks from the same seed", streams)


def _refuse_draws(expected: str, before: Mapping[str, object]) -> None:
    moved = [name for name, state in _global_streams().items() if state != before[name]]
    raise ModelError(
        expected=expected,
        got=f"others, with draws from {moved[0]}" if moved else "others",
        do="Draw all random numbers, those of initial weights too, from torch's global stream, and keep what the "
        "network remembers in it, not in variables outside: refits share those.",
    )


def _check_shared(found: Sequence[Effects]) -> None:
    """Check that nothing depends on what all networks share and training changes."""
    for effect in found:
        if effect.loss or effect.score:
            raise ModelError(
                expected="networks that share nothing that changes in training",
                got=f"{effect.slot.path}, outside the network: all refits would change it and compute with it",
                do=f"Keep it in the network. {REGISTER}",
            )


def _load(state: Mapping[str, Any], fresh: nn.Module) -> None:
    """Load the state dict of a trained network into a fresh one, as from a file."""
    if plain := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ModelError(
            expected="a state dict of tensors, which a file can hold without code",
            got=f"{plain[0]} of {type(state[plain[0]]).__name__}",
            do="Return a tensor from get_extra_state, or register buffers instead.",
        )
    try:
        fresh.load_state_dict({name: value.detach().clone() for name, value in state.items()}, strict=True)
    except Exception as error:  # whatever a hook of the user raises
        raise ModelError(
            expected="the state dict of a trained network to load into a fresh one",
            got=" ".join(str(error).split()),
            do="Register buffers and parameters in __init__, with the shapes they have after training.",
        ) from error


def _check_restored(trained: nn.Module, fresh: nn.Module, trial: Trial, read: Sequence[Slot]) -> None:
    """Check that a network that loaded the state dict has the same log p, and the values that log p `read`s.

    What the network computes anew when it is called, such as a mask that it keeps, it has as well.
    """
    mine, theirs = slots(trained), slots(fresh)
    differing = {slot.path: slot for slot in changed(theirs, mine)}
    if not close(trial.score(trained), trial.score(fresh)):
        tensors = [path for path, slot in differing.items() if isinstance(slot.value, Tensor)]
        _refuse_state([*tensors, *differing, "something that is no attribute"][0])
    mine, theirs = slots(trained), slots(fresh)
    for path in (slot.path for slot in read if slot.path in differing):
        if path not in mine or path not in theirs or not alike(mine[path].value, theirs[path].value):
            _refuse_state(path)


def _refuse_state(path: str) -> None:
    raise ModelError(
        expected="log p to depend on a network's state dict alone, from which saved models and refits are restored",
        got=f"log p that depends on {path}, which is not in it",
        do=REGISTER,
    )


# --- the global streams of numpy and of Python


def _global_streams() -> dict[str, object]:
    return {"numpy.random": repr(np.random.get_state(legacy=False)), "the module random": random.getstate()}


@contextmanager
def _global_streams_put_back() -> Iterator[None]:
    """Put back the global streams of numpy and of Python, from which a network may draw, after the block."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)
