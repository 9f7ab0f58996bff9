"""All products of per-example gradients against the loop, on one network."""

import torch
from oracles_gradients import gradients_by_loop
from torch.utils._python_dispatch import TorchDispatchMode

from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.products import along, inner, squared_norms

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def data(n, event, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *event, generator=generator, dtype=dtype)


def check(module, x, z, *, noise=(None, None), loss=None, hooks=True, tolerance=None):
    """All products of x and z against the loop; returns the gradients."""
    gradients = PerExampleGradients(module, x, noise=noise[0], loss=loss, hooks=hooks)
    tolerance = TOLERANCE[next(module.parameters()).dtype] if tolerance is None else tolerance
    rows = [
        gradients_by_loop(module, gradients._run(*gradients._cast(a, e))).double()
        for a, e in zip((x, z), noise, strict=True)
    ]
    found = [gradients.features(a, e) for a, e in zip((x, z), noise, strict=True)]
    norms = [row.norm(dim=1) for row in rows]
    error = (inner(*found) - rows[0] @ rows[1].T) / norms[0][:, None] / norms[1]
    assert error.abs().max() < tolerance
    assert (squared_norms(found[0]) / norms[0].square() - 1).abs().max() < tolerance

    group = gradients.gradient(z, noise[1], weights=torch.arange(len(z)) - 1.5)
    flat = torch.cat([g.flatten() for g in group.values()]).double()
    truth = rows[0] @ ((torch.arange(len(z)) - 1.5).double() @ rows[1])
    scale = norms[0] * flat.norm()
    assert ((along(found[0], group) - truth) / scale).abs().max() < tolerance
    assert ((gradients.along(x, group, noise[0]) - truth) / scale).abs().max() < tolerance

    diagonal = {name: torch.rand_like(p) for name, p in gradients.trained.items()}
    weights = torch.cat([v.flatten() for v in diagonal.values()]).double()
    scaled = inner(*found, scale=diagonal) - (rows[0] * weights) @ rows[1].T
    assert (scaled / norms[0][:, None] / norms[1]).abs().max() < tolerance
    assert (squared_norms(found[0], scale=diagonal) / (rows[0].square() @ weights) - 1).abs().max() < tolerance
    return gradients


class Largest(TorchDispatchMode):
    """The most values of any tensor that is made."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(value, torch.Tensor):
                self.most = max(self.most, value.untyped_storage().nbytes() // value.element_size())
        return made
