"""Training and log p of a VAE: the straightforward way, genmem one after another, genmem in lanes.

The straightforward way is one model at a time, a DataLoader over tensors, default Adam, torch.distributions, and all
importance samples at once. Prints the median of each and the ratios, round by round.
"""

import argparse
import platform
import statistics
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

from genmem.models import VAE, log_prob
from genmem.training import Lane, train


def straightforward_training(module, X, epochs):
    loader = DataLoader(TensorDataset(X), batch_size=64, shuffle=True, drop_last=True)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for (x,) in loader:
            optimiser.zero_grad()
            mean, log_variance = module.posterior(x)
            q = Normal(mean, (0.5 * log_variance).exp())
            output = module.decoder(q.rsample())
            if module.likelihood == "bernoulli":
                p = Bernoulli(logits=output)
            else:
                x = x[:, module.varying] if module.varying is not None else x
                p = Normal(output, (0.5 * module.log_variance.clamp(min=-7)).exp())
            loss = kl_divergence(q, Normal(0.0, 1.0)).sum(-1) - p.log_prob(x).sum(-1)
            loss.mean().backward()
            optimiser.step()


@torch.no_grad()
def straightforward_log_prob(module, X, draws):
    parts = []
    for (x,) in DataLoader(TensorDataset(X), batch_size=64):
        mean, log_variance = module.posterior(x)
        q = Normal(mean, (0.5 * log_variance).exp())
        z = q.sample((draws,))
        output = module.decoder(z)
        if module.likelihood == "bernoulli":
            p = Bernoulli(logits=output)
        else:
            x = x[:, module.varying] if module.varying is not None else x
            p = Normal(output, (0.5 * module.log_variance.clamp(min=-7)).exp())
        log_w = p.log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
        parts.append(torch.logsumexp(log_w, 0) - np.log(draws))
    return torch.cat(parts)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


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
    per_step = {way: [] for way in ways}
    for call in ways.values():  # warm up
        call()
    for _ in range(rounds):
        for way, call in ways.items():
            per_step[way].append(1e3 * seconds(call) / steps / (lanes if "lanes" in way else 1))
    report(f"{name}: training, ms a model-step", per_step)
    some = tensor[:1000]
    scoring = {
        "straightforward": lambda: straightforward_log_prob(module, some.float(), draws),
        "genmem": lambda: log_prob(module, some, draws=draws, seed=0),
    }
    times = {way: [] for way in scoring}
    for call in scoring.values():
        call()
    for _ in range(rounds):
        for way, call in scoring.items():
            times[way].append(1e3 * seconds(call) / len(some))
    report(f"{name}: log p at {draws} draws, ms an example", times)


def report(title, times):
    print(f"\n{title}")
    base = times["straightforward"]
    for way, values in times.items():
        ratios = sorted(b / v for b, v in zip(base, values, strict=True))
        print(
            f"  {way:<18} {statistics.median(values):8.3f}   "
            f"{statistics.median(ratios):5.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    digits = (load_digits().data / 16).astype(np.float32)
    small = VAE(hidden=(128, 64), latent_dim=8)
    for lanes in (5, 20):
        compare(f"digits, {lanes} lanes", digits, small, lanes, epochs=4, draws=64, rounds=rounds)
    pixels = (np.random.default_rng(0).random((2000, 784)) < 0.2).astype(np.uint8)
    large = VAE(hidden=(512, 256), latent_dim=16, likelihood="bernoulli")
    compare("784-512-256-16, 5 lanes", pixels, large, 5, epochs=1, draws=256, rounds=rounds)


if __name__ == "__main__":
    main()
