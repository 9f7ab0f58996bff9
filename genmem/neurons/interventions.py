"""Look at the units of a network, or change them, inside a block."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from genmem.errors import ModelError
from genmem.neurons.edits import BASELINES, Edits, as_examples, edited, find_baseline, masks_of, noted
from genmem.neurons.reweighting import REWEIGHTINGS, reweighted
from genmem.neurons.runs import scored
from genmem.neurons.units import checked_units, layers_named, module_of, wired

MODES = (*BASELINES, *REWEIGHTINGS)


@contextmanager
def record(
    model_or_module: Any, layers: Sequence[str] | None = None, *, part: str = "decoder", reference: Any = None
) -> Iterator[dict[str, list[Tensor]]]:
    """Record the values of units in every call inside the block, where `ablate` would replace them.

    Args:
        model_or_module: a fitted density, or its network.
        layers: names of layers; None is all whose units are hidden.
        part: see `units_of`.
        reference: examples on which the network is tested first, to find where units are read; needed for a network
            that does not say what shape an example has.

    Yields:
        By layer, one tensor for each call: (rows, channels, positions), rows as the network arranges them. Units with
        several readers are recorded at each.

    Raises:
        ModelError: see `units_of`.

    >>> import torch
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> with record(network, reference=torch.rand(16, 2)) as values:
    ...     _ = network(torch.rand(5, 2))
    >>> values["0"][0].shape
    torch.Size([5, 3, 1])
    """
    module = module_of(model_or_module)
    examples = None if reference is None else as_examples(reference)
    wirings, _ = wired(module, layers=layers, part=part, examples=examples)
    values: dict[str, list[Tensor]] = {name: [] for name in wirings}
    with noted(module, wirings) as seen:
        try:
            yield values
        finally:
            for (layer, _), value in seen:
                values[layer].append(value)


@contextmanager
def ablate(
    model_or_module: Any,
    units: Sequence[tuple[str, int]],
    mode: str = "mean",
    *,
    part: str = "decoder",
    reference: Any = None,
    sigma: float = 0.01,
    weights: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Iterator[None]:
    """Replace the values of units in every call inside the block, jointly.

    "mean", "zero" and "resample" replace what the next layers read of a unit, after its activation function, wherever
    the network shows that place (see `coverage_of`): the unit then tells nothing about the example. "noise", "reinit"
    and "rewind" give it other incoming weights, in this layer only if several layers share them. Only hooks are added:
    parameters, buffers and modes stay as they are, and after the block, or an exception in it, the hooks are gone.

    Blocks may be nested: the innermost has the last word on a unit. Reference values are those of the network without
    any edit.

    Args:
        model_or_module: a fitted density, or its network.
        units: (layer, index) pairs; a unit may be named twice.
        mode: "mean" over the reference; "zero"; "resample": the values of reference examples in a random order;
            "noise": normal noise of standard deviation `sigma` is added to the incoming weights; "reinit": the incoming
            weights are drawn again as the layer draws them; "rewind": they are those of `weights`.
        part: see `units_of`.
        reference: examples, (m, *event): the training examples for "mean" and "resample", any for the others.
        sigma: of "noise".
        weights: of "rewind": an earlier state dict of the network, as checkpoints have it.
        seed: of random numbers.

    Raises:
        ModelError: there is no such mode, layer or unit; see also `units_of`.
        DataError: there are too few reference examples.

    >>> import torch
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1, bias=False))
    >>> with ablate(network, [("0", 0), ("0", 1), ("0", 2)], "zero", reference=torch.rand(16, 2)):
    ...     network(torch.ones(1, 2)).item()
    0.0
    """
    if mode not in MODES:
        raise ModelError(expected=f"mode to be one of {', '.join(MODES)}", got=repr(mode), do="Change mode.")
    module, layers = module_of(model_or_module), layers_named(units)
    examples = None if reference is None else as_examples(reference)
    if not layers:
        yield
        return
    wirings, _ = wired(module, layers=layers, part=part, examples=examples)
    masks = masks_of([checked_units(units, wirings)], wirings)
    if mode in REWEIGHTINGS:
        with reweighted(module, masks, wirings, mode, sigma=sigma, weights=weights, seed=seed):
            yield
        return
    with scored(module):
        baseline = find_baseline(
            module, wirings, mode, examples, n=len(examples) if examples is not None else 0, seed=seed
        )
    with edited(module, wirings, baseline, Edits(masks)):
        yield
