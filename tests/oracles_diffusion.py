"""The bound of a diffusion model by its definition: every timestep, textbook Gaussians, fresh noise for each."""

import numpy as np
import torch
from torch.distributions import Normal, kl_divergence


def bound_by_definition(network, X, beta, *, prediction_type, variance, shift, scale, varies=None, draws=64, seed=0):
    """Return E_q[log p(x_0, ..., x_T) - log q(x_1, ..., x_T | x_0)] for X (n, d): means and standard errors (n,).

    The reverse mean is written as in DDPM's equation 7, from a prediction of x_0, in float64.
    """
    x0 = (torch.as_tensor(X, dtype=torch.float64) - torch.as_tensor(shift)) / torch.as_tensor(scale)
    varies = torch.ones(x0.shape[1], dtype=torch.bool) if varies is None else torch.as_tensor(varies)
    generator = torch.Generator().manual_seed(seed)
    total, noise = torch.zeros(len(x0), dtype=torch.float64), torch.zeros(len(x0), dtype=torch.float64)
    alpha_bar = np.cumprod(1 - np.asarray(beta, np.float64))
    for t in range(len(beta)):
        here, before = alpha_bar[t], alpha_bar[t - 1] if t else 1.0
        eps = torch.randn(draws, *x0.shape, generator=generator, dtype=torch.float64)
        x_t = torch.where(varies, here**0.5 * x0 + (1 - here) ** 0.5 * eps, x0)
        with torch.no_grad():
            flat = network(x_t.float().flatten(0, 1), torch.full((draws * len(x0),), t))
        answer = flat.double().view_as(x_t)
        guess = {
            "epsilon": (x_t - (1 - here) ** 0.5 * answer) / here**0.5,
            "sample": answer,
            "v_prediction": here**0.5 * x_t - (1 - here) ** 0.5 * answer,
        }[prediction_type]
        found = _term(x0, x_t, guess, beta[t], here, before, variance)[..., varies].sum(-1)
        total -= found.mean(0)
        noise += found.var(0) / draws
    prior = kl_divergence(Normal(alpha_bar[-1] ** 0.5 * x0, torch.tensor((1 - alpha_bar[-1]) ** 0.5)), Normal(0.0, 1.0))
    scales = torch.as_tensor(scale, dtype=torch.float64).expand(x0.shape[1])
    bound = total - prior[:, varies].sum(-1) - scales.log()[varies].sum()
    return bound.numpy(), noise.sqrt().numpy()


def _term(x0, x_t, guess, beta, here, before, variance):
    """Return the part of one timestep, column by column: minus log p(x_0 | x_1), or KL(q || p) of x_{t-1}."""

    def mean(of):
        return before**0.5 * beta / (1 - here) * of + (1 - beta) ** 0.5 * (1 - before) / (1 - here) * x_t

    if before == 1.0:
        return -Normal(guess, beta**0.5).log_prob(x0)
    posterior = beta * (1 - before) / (1 - here)
    used = beta if variance == "large" else posterior
    return kl_divergence(Normal(mean(x0), posterior**0.5), Normal(mean(guess), used**0.5))


def gap_of_gaussian(beta, v):
    """Return E[log p(x) - bound(x)] for each column of x ~ N(0, v), the best denoiser and the "large" variance.

    All is Gaussian: the gap is KL(q(x_T) || p(x_T)) and, at each timestep, that of two Gaussians of equal mean.
    """
    alpha_bar = np.cumprod(1 - beta)
    marginal = np.concatenate([[v], alpha_bar * v + 1 - alpha_bar])  # of x_0, x_1, ..., x_T
    exact = marginal[:-1] * beta / marginal[1:]  # of x_{t-1} given x_t
    ratios = np.concatenate([exact / beta, marginal[-1:]])
    return float(0.5 * (ratios - 1 - np.log(ratios)).sum())
