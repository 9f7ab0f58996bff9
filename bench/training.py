"""Training and log p of a VAE: the straightforward way, genmem one after another, genmem in lanes.

The straightforward way is one model at a time, a DataLoader over tensors, default Adam, torch.distributions, and all
importance samples at once. Prints the median of each and the ratios, round by round.
"""

import numpy as np
import torch
from common import in_turn, machine, options, parse, print_times, require, seconds
from sklearn.datasets import load_digits
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

from genmem.models import VAE, log_prob
from genmem.training import Lane, train


def straightforward_training(module, X, epochs):
    """Train a network where it is; examples come from the loader."""
    loader = DataLoader(TensorDataset(X), batch_size=64, shuffle=True, drop_last=True)
    device = next(module.parameters()).device
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for (x,) in loader:
            x = x.to(device)
            optimiser.zero_grad()
            mean, log_variance = module.posterior(x)
            q = Normal(mean, (0.5 * log_variance).exp())
            p = described(module, q.rsample())
            loss = kl_divergence(q, Normal(0.0, 1.0)).sum(-1) - p.log_prob(kept(module, x)).sum(-1)
            loss.mean().backward()
            optimiser.step()
    return module


def described(module, z):
    """Return p(x | z) of the columns that vary."""
    output = module.decoder(z)
    if not module.likelihood.learns_variance:
        return Bernoulli(logits=output)
    return Normal(output, (0.5 * module.log_variance.clamp(min=-7)).exp())


def kept(module, x):
    return x if module.varying is None else x[:, module.varying]


@torch.no_grad()
def straightforward_log_prob(module, X, draws):
    parts, device = [], next(module.parameters()).device
    for (x,) in DataLoader(TensorDataset(X), batch_size=64):
        x = x.to(device)
        mean, log_variance = module.posterior(x)
        q = Normal(mean, (0.5 * log_variance).exp())
        z = q.sample((draws,))
        log_p = described(module, z).log_prob(kept(module, x)).sum(-1)
        log_w = log_p + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
        parts.append(torch.logsumexp(log_w, 0) - np.log(draws))
    return torch.cat(parts)


def compare(name, X, model, lanes, epochs, draws, rounds):
    model = model.set_params(epochs=epochs).resolve(X)
    recipe, tensor = model.recipe(X.shape[1:], len(X), seed=0), torch.from_numpy(X)
    plain = tensor.float()
    many = [Lane(np.arange(len(X)), i, i // 5) for i in range(lanes)]
    module = model.make_module(X.shape[1:])
    steps = recipe.steps_per_epoch * epochs
    ways = {
        "straightforward": lambda: straightforward_training(model.make_module(X.shape[1:]), plain, epochs),
        "one after another": lambda: train(recipe, tensor, many[:1], batched=False),
        f"{lanes} lanes": lambda: train(recipe, tensor, many, batched=True),
    }
    for call in ways.values():  # warm up
        call()
    times = in_turn(ways, rounds)
    models = {way: lanes if "lanes" in way else 1 for way in ways}
    per_step = {way: [1e3 * t / steps / models[way] for t in values] for way, values in times.items()}
    print_times(f"{name}: training, ms a model-step", per_step, "straightforward", unit="ms")
    some = tensor[:1000]
    scoring = {
        "straightforward": lambda: straightforward_log_prob(module, some.float(), draws),
        "genmem": lambda: log_prob(module, some, draws=draws, seed=0),
    }
    theirs, ours = scoring["straightforward"](), torch.as_tensor(scoring["genmem"]().log_prob)
    gap = float((theirs.double() - ours.double()).mean().abs())
    require(gap < 0.05 * float(ours.abs().mean()), f"mean log p differs by {gap:.2f} nats")
    times = in_turn(scoring, rounds, lambda call: 1e3 * seconds(call) / len(some))
    print_times(f"{name}: log p at {draws} draws, ms an example", times, "straightforward", unit="ms")


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=2000, help="at most")
    parser.set_defaults(draws=(64, 256))
    asked = parse(parser, argv, rounds=1, examples=64, draws=(16, 16))
    few, many = asked.draws
    print(machine())
    digits = (load_digits().data[: asked.examples] / 16).astype(np.float32)
    small = VAE(hidden=(128, 64), latent_dim=8)
    for lanes in (5, 20):
        compare(f"digits, {lanes} lanes", digits, small, lanes, epochs=4, draws=few, rounds=asked.rounds)
    pixels = (np.random.default_rng(0).random((asked.examples, 784)) < 0.2).astype(np.uint8)
    large = VAE(hidden=(512, 256), latent_dim=16, likelihood="bernoulli")
    compare("784-512-256-16, 5 lanes", pixels, large, 5, epochs=1, draws=many, rounds=asked.rounds)


if __name__ == "__main__":
    main()
