"""The slow, obvious log p of a flow: change of variables with the Jacobian of autograd, one example at a time."""

import math

import torch


def flow_log_prob_by_jacobian(module, x):
    """Return log N(z(x)) + log |det dz/dx| of each row of x over the columns that vary."""
    return torch.stack([_one(module, row) for row in x])


def _one(module, row):
    kept = torch.arange(row.numel()) if module.varying is None else module.varying

    def noise_of(values):
        y = values if module.logit is None else torch.logit(module.logit + (1 - 2 * module.logit) * values)
        return module.transform()((y - module.shift) / module.scale)

    values = row.flatten()[kept]
    jacobian = torch.autograd.functional.jacobian(noise_of, values)
    z = noise_of(values)
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum() + torch.linalg.slogdet(jacobian)[1]
