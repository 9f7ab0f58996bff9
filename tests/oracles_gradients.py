"""Slow, obvious gradients of single examples."""

import torch


def gradients_by_loop(module, losses):
    """The gradient of each loss with respect to the trained parameters, flat: (n, P)."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        found = [torch.zeros_like(p) if g is None else g.to_dense() for g, p in zip(found, parameters, strict=True)]
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def self_influence_by_definition(rows):
    """Unbiased |E g|^2 of one example from its draws' gradients (m, P), and the jackknife standard error."""
    m = len(rows)
    estimate = _pairs(rows)
    without = torch.stack([_pairs(torch.cat([rows[:j], rows[j + 1 :]])) for j in range(m)])
    return estimate, ((m - 1) / m * (without - without.mean()).square().sum()).sqrt()


def _pairs(rows):
    m = len(rows)
    return sum(rows[i] @ rows[j] for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
