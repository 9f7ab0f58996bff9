"""What normalization does in training that it does not in evaluation mode, where gradients are computed.

In training mode, batch normalization divides by statistics of the batch, through which the loss of an example has
gradients at the others. A gradient of one example is then not defined. In evaluation mode, running statistics are
constants. The difference is large: biases before such a layer have no gradient in training.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genmem.gradients.alone import moved
from genmem.gradients.fallback import Loss, PerExampleLoss, dense
from genmem.training.ensemble import isolated_streams
from genmem.training.module_state import copied

VANISHES = 1e-3  # share of the gradient in evaluation mode
BATCH_NORM = nn.modules.batchnorm._BatchNorm
INSTANCE_NORM = nn.modules.instancenorm._InstanceNorm


@dataclass(frozen=True)
class Statistics:
    """What training takes from batches, or changes in its forward passes.

    `layers` hold buffers that training changes and evaluation uses. `other_gradients`: gradients in training mode are
    others than in evaluation mode, because the examples of a batch, or the values of one, share statistics.
    """

    layers: tuple[str, ...] = ()
    other_gradients: bool = False


def statistics_of(
    module: nn.Module, loss: Loss | None, x: Tensor, noise: Tensor | None, still: Collection[str] = ()
) -> Statistics:
    """Return what distinguishes training mode from evaluation mode; the network is left as it is.

    Args:
        module: in evaluation mode.
        loss: as `PerExampleGradients` takes it.
        x: a few examples that differ.
        noise: as `PerExampleGradients` takes it.
        still: normalization layers that were in evaluation mode in training.
    """

    def losses(network: nn.Module, x: Tensor) -> Tensor:
        with isolated_streams(x.device, 0):
            found: Tensor = PerExampleLoss(network, loss)(x, noise)
            return found

    network = _training(module, still)
    known = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, BATCH_NORM | INSTANCE_NORM)]
    named = tuple(name for name, layer in known if layer.training and layer.running_mean is not None)
    like = next(iter(module.parameters()), x)
    x = x.to(like) if x.is_floating_point() or x.dtype in (torch.uint8, torch.bool) else x.to(like.device)
    before = {name: value.clone() for name, value in network.named_buffers()}
    try:
        together = losses(network, x)
        alike = losses(_training(module, still), x[:1].expand_as(x))
    except Exception:  # a network may fail in any way in training mode, with other outputs or too few examples
        return Statistics(named, bool(named))
    changed = {name: value for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    used = _used(module, changed, lambda network: losses(network, x))
    mixed = not torch.allclose(together[:1], alike[:1], rtol=1e-4, atol=1e-6)
    layers = tuple(dict.fromkeys([*named, *(name.rpartition(".")[0] or name for name in used)]))
    vanishing = bool(used) and not mixed and _vanishes(together, network, losses(module, x), module)
    return Statistics(layers, bool(named) or mixed or vanishing)


def _training(module: nn.Module, still: Collection[str]) -> nn.Module:
    """Return a copy in training mode, without dropout."""
    network = copied(module).train()
    for name, layer in network.named_modules():
        counted_none = name in still and isinstance(layer, BATCH_NORM)  # instance norms never count
        if counted_none or isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.eval()
    return network


def _used(module: nn.Module, changed: dict[str, Tensor], losses: object) -> list[str]:
    """Return the buffers on which the losses in evaluation mode depend."""
    assert callable(losses)
    found = []
    with torch.no_grad():
        truth = losses(module)
        for name in changed:
            other = copied(module)
            value = dict(other.named_buffers())[name]
            value.copy_(moved(value))
            if not torch.allclose(losses(other), truth, rtol=1e-4, atol=1e-6):
                found.append(name)
    return found


def _vanishes(training: Tensor, network: nn.Module, evaluation: Tensor, module: nn.Module) -> bool:
    """Return whether a parameter has a gradient in evaluation mode and none in training mode."""
    one, other = (_lengths(*pair) for pair in ((training, network), (evaluation, module)))
    return bool(((one < VANISHES * other) & (other > VANISHES * other.norm())).any())


def _lengths(losses: Tensor, network: nn.Module) -> Tensor:
    parameters = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
    return torch.stack([torch.linalg.vector_norm(dense(g, p)) for g, p in zip(found, parameters, strict=True)])
