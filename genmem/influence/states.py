"""State dicts from other training loops, as checkpoints of one network.

Such states differ from the network's own in how they are wrapped, not in what they hold: DataParallel puts "module."
before each key, torch.compile "_orig_mod.", a LightningModule the name of its attribute, and trainers save the state
inside a dict with the epoch and the optimizer.
"""

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.training.trajectory import State

COUNTER = "num_batches_tracked"  # which old checkpoints lack, and torch supplies


def reader_of(given: Any, module: nn.Module, i: int) -> Callable[[], State]:
    """Return a function that reads the i-th state, with the keys of the network.

    Args:
        given: a state dict, a dict that holds one, a network, or a .safetensors file, which is read at every call.
        module: the network.
        i: for errors.

    Raises:
        ModelError: it is none of these, holds several states of this network, or values of another kind.
    """
    own = dict(module.state_dict())
    if isinstance(given, str | PathLike):
        path = _safetensors(Path(given), i)
        return lambda: fitted(_loaded(path), own, f"file {path}")
    state = given.state_dict() if isinstance(given, nn.Module) else given
    if not isinstance(state, Mapping):
        raise ModelError(
            expected="each checkpoint as a state dict, or a .safetensors file of one",
            got=f"{type(given).__name__} as checkpoint {i}",
            do="Save copy.deepcopy(network.state_dict()) during training and pass a list of these.",
        )
    found = fitted(state, own, f"checkpoint {i}")
    return lambda: found


def refuse_shared(states: list[State]) -> None:
    """Refuse states that are one and the same memory: all of them then hold the weights of the last step.

    Raises:
        ModelError: two in a row are.
    """
    for i, (one, other) in enumerate(zip(states, states[1:], strict=False)):
        floats = [name for name, value in one.items() if value.is_floating_point() and value.numel()]
        if floats and all(name in other and one[name].data_ptr() == other[name].data_ptr() for name in floats):
            raise ModelError(
                expected="a copy of the weights for each checkpoint",
                got=f"checkpoints {i} and {i + 1} in the same memory, which holds the weights of the last step",
                do="Save copy.deepcopy(network.state_dict()): state_dict() alone refers to the live weights.",
            )


def _safetensors(path: Path, i: int) -> Path:
    if path.suffix == ".safetensors" and path.is_file():
        return path
    missing = "no file" if not path.is_file() else f"a {path.suffix or 'nameless'} file, which may run code when read"
    raise ModelError(
        expected="each checkpoint as a state dict, or an existing .safetensors file",
        got=f"{path} as checkpoint {i}: {missing}",
        do="Pass what torch.load reads from it with weights_only=True." if path.is_file() else "Correct the path.",
    )


def _loaded(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            expected=f"a checkpoint in {path}", got=f"a file that cannot be read ({error})", do="Save it again."
        ) from error


def fitted(given: Mapping[Any, Any], own: State, where: str) -> State:
    """Return the state of the network in a mapping, with the network's keys; unchanged if its keys do not fit.

    Raises:
        ModelError: it holds several states of this network or none, or integers in place of floats.
    """
    found = _matched(given, own)
    if found is None and not _is_state(given):
        inner = {key: _matched(value, own) for key, value in given.items() if isinstance(value, Mapping)}
        fitting = {key: state for key, state in inner.items() if state is not None}
        if len(fitting) != 1:
            raise ModelError(
                expected="a state dict of this network, or a dict that holds one",
                got=f"{where} with " + (f"several, {', '.join(map(repr, fitting))}" if fitting else _described(given)),
                do="Pass the one to use." if fitting else "Pass network.state_dict() of the network given.",
            )
        (found,) = fitting.values()
    state = dict(given) if found is None else found
    _refuse_other_kinds(state, own, where)
    return state


def _described(given: Mapping[Any, Any]) -> str:
    keys = [repr(key) for key in given]
    return f"the keys {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}" if keys else "nothing in it"


def _is_state(given: Mapping[Any, Any]) -> bool:
    return bool(given) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in given.items())


def _matched(given: Mapping[Any, Any], own: State) -> State | None:
    """Return a state with the keys of the network if they differ by prefixes alone, otherwise None."""
    tensors = {key: value for key, value in given.items() if isinstance(key, str) and isinstance(value, Tensor)}
    plain = {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}
    needed = {key for key in own if not key.endswith(COUNTER)} or set(own)
    for state in (tensors, plain):
        if needed <= state.keys():
            return state
    first = min(needed)
    prefixes = {key.removesuffix(first) for key in plain if key.endswith("." + first)}
    fitting = [prefix for prefix in prefixes if needed <= {key.removeprefix(prefix) for key in plain}]
    if len(fitting) == 1:
        (prefix,) = fitting
        return {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}
    return _below_one_name(plain, own, needed) if not fitting else None


def _below_one_name(plain: State, own: State, needed: set[str]) -> State | None:
    """Return a state of the only submodule of a network, such as `network` of `from_module`, with the whole's keys."""
    names = {key.partition(".")[0] for key in own}
    if len(names) != 1 or not all("." in key for key in own):
        return None
    (name,) = names
    state = {f"{name}.{key.removeprefix('module.')}": value for key, value in plain.items()}
    return state if needed <= state.keys() else None


def _refuse_other_kinds(state: State, own: State, where: str) -> None:
    """Refuse integers for floats: quantized weights mean something only together with their scales."""
    for name, value in own.items():
        given = state.get(name)
        continuous = value.is_floating_point() or value.is_complex()  # averages of counters may be floats
        if isinstance(given, Tensor) and continuous and (given.is_quantized or _kind(given) != _kind(value)):
            raise ModelError(
                expected=f"{name!r} of {str(value.dtype).removeprefix('torch.')}, or a float that converts to it",
                got=f"{str(given.dtype).removeprefix('torch.')} in {where}",
                do="Pass the weights that were trained, before quantization.",
            )


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()
