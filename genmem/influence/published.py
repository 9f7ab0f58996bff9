"""The loss that published code attributes, for comparison with its numbers; it is not the loss that was trained."""

import torch
from torch import Tensor, nn

from genmem.errors import ModelError

RGB = 3


def check_published(module: nn.Module) -> None:
    """Check that a network is a variational auto-encoder whose decoder returns logits, means, or those first.

    Raises:
        ModelError: it is not.
    """
    name = getattr(getattr(module, "likelihood", None), "name", None)
    if name not in ("bernoulli", "gaussian") or not hasattr(module, "posterior"):
        raise ModelError(
            expected='a VAE or ConvVAE with a Bernoulli or Gaussian likelihood for loss="paper"',
            got=type(module).__name__ + (f" with {name}" if name else ""),
            do='Use loss="trained": loss="paper" is for comparison with published numbers only.',
        )


def published_loss(module: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """Return |x - x_hat|^2 + beta KL of each example, averaged over draws: (batch,); the square / 3 for RGB.

    x_hat is the mean of p(x | z), whatever likelihood was trained.

    Args:
        module: a network that `check_published` accepts.
        x: (batch, *event).
        noise: (draws, batch, latent).

    References:
        Understanding Instance-based Interpretability of Variational Auto-Encoders (Kong & Chaudhuri, 2021),
        https://arxiv.org/abs/2105.14203
    """
    mean, log_variance = module.posterior(x)  # type: ignore[operator]
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
    outputs = module.decoder(mean + (0.5 * log_variance).exp() * noise)  # type: ignore[operator]
    flat = module.described(x)  # type: ignore[operator]
    logits = module.likelihood.name == "bernoulli"  # type: ignore[union-attr]
    guess = torch.sigmoid(outputs) if logits else outputs[..., : flat.shape[1]]
    square = (flat - guess).square().sum(-1).mean(0)
    colour = x.dim() == 4 and x.shape[-1] == RGB
    result: Tensor = square / (RGB if colour else 1) + module.beta * kl
    return result
