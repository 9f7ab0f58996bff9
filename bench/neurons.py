"""Exhaustive ablation of the decoder's units of a VAE: `genmem.neurons.drops` against a loop over forward passes.

The loop replaces one unit at a time by a hook and computes the log weights of all examples and draws anew, with the
encoder's q and the same noise and baseline; both give the same drops, which is tested first. One thread, in turn,
process CPU seconds; ratios are medians over rounds. Then the steps of one ablation, each at the sizes of the first.
"""

import time

import numpy as np
import torch
from common import machine, options, parse, require, spread

from genmem.models import VAE
from genmem.models.evaluation import noise_of_rows
from genmem.models.posterior import refit_posterior
from genmem.neurons import coverage_of, drops, units_of


def made(rng, n, d, hidden, latent):
    """Return a VAE trained for one epoch on made-up data: speed does not depend on what it learned."""
    X = np.tanh(rng.standard_normal((n, latent)) @ rng.standard_normal((latent, d))).astype(np.float32)
    X += 0.1 * rng.standard_normal(X.shape, dtype=np.float32)
    return VAE(hidden=hidden, latent_dim=latent, likelihood="gaussian", epochs=1).fit(X), X


class Loop:
    """The loop; values become 0 behind the activation, whose place in the decoder is known here."""

    def __init__(self, model, X, draws):
        self.module, self.x, self.draws = model.module_, torch.from_numpy(X), draws
        self.units = units_of(model)

    def q(self):
        found = refit_posterior(self.module, self.x, steps=0, draws=1, seed=0)
        self.posterior = torch.from_numpy(found.mean), torch.from_numpy(found.log_variance)
        noise = {"seed": 0, "purpose": "evaluation noise", "keys": (), "like": self.x}
        self.noise = torch.cat(
            list(noise_of_rows(self.module.noise_shape, np.arange(len(self.x)), self.draws, **noise))
        )

    @torch.no_grad()
    def log_p(self):
        found = self.module.log_weights(self.x, self.draws, noise=self.noise, posterior=self.posterior)
        return torch.logsumexp(found.double(), 0).numpy()

    def __call__(self):
        self.q()
        base, columns = self.log_p(), []
        for layer, index in self.units:
            activation = self.module.decoder[int(layer.rpartition(".")[2]) + 1]

            def replace(_, args, output, index=index):
                output = output.clone()
                output[..., index] = 0.0
                return output

            handle = activation.register_forward_hook(replace)
            columns.append(base - self.log_p())
            handle.remove()
        return np.stack(columns, 1)


def timed(call):
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def compare(name, size, hidden, latent, n, draws, rounds):
    rng = np.random.default_rng(0)
    model, X = made(rng, max(n, 400), size, hidden, latent)
    loop = Loop(model, X[:n], draws)
    settings = {"baseline": "zero", "posterior": "encoder", "n_samples": draws}
    ratios, seconds = [], []
    for _ in range(rounds):
        found, fast = timed(lambda: drops(model, X[:n], **settings))
        truth, slow = timed(loop)
        require(
            np.allclose(found.values, truth, rtol=1e-4, atol=1e-3), f"drops differ by {abs(found.values - truth).max()}"
        )
        ratios.append(slow / fast)
        seconds.append((slow, fast))
    refits = timed(lambda: drops(model, X[:n], **{**settings, "posterior": "refit"}))[1]
    slow, fast = np.median(seconds, 0)
    print(
        f"| {name}, {len(loop.units)} units x {n} examples x {draws} draws | {slow:.2f} s | {fast:.2f} s "
        f"| {spread(ratios)} | {refits:.1f} s |",
        flush=True,
    )


def shares(name, size, hidden, latent, n, draws, rounds):
    """Print the seconds of each step of one exhaustive ablation: of its operations alone, at their sizes."""
    model, X = made(np.random.default_rng(0), max(n, 400), size, hidden, latent)
    rows, wide, first = n * draws, hidden[0], hidden[-1]
    before, weight, target = torch.randn(rows, wide), torch.randn(size, wide), torch.randn(rows, size)
    shift, column, weights = torch.randn(rows, 1), torch.randn(wide), torch.randn(draws, len(units_of(model)), n)
    value, error = torch.empty_like(before), torch.empty_like(target)
    steps = {
        "edited input of the last layer": lambda: torch.addcmul(before, shift, column, out=value),
        "activation": lambda: value.relu_(),
        "last layer": lambda: torch.addmm(target, value, weight.T, out=error),
        "squared error": lambda: error.square_().sum(1),
    }
    found = {step: first * median_of(call, rounds) for step, call in steps.items()}
    found["mean over draws, of all units"] = median_of(lambda: torch.logsumexp(weights, 0), rounds)
    found["where units are read"] = median_of(lambda: coverage_of(model), rounds)
    settings = {"baseline": "zero", "posterior": "encoder", "n_samples": draws}
    found["all of drops"] = median_of(lambda: drops(model, X[:n], **settings), rounds)
    print(f"\n| {name}, {len(units_of(model))} units x {n} examples x {draws} draws | ms |\n|---|---|")
    for step, seconds in found.items():
        print(f"| {step} | {1000 * seconds:.1f} |")


def median_of(call, rounds):
    call()
    return float(np.median([timed(call)[1] for _ in range(rounds)]))


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    small = ("64-128-64-8", 64, (128, 64), 8)
    large = ("784-512-256-16", 784, (512, 256), 16)
    parser.set_defaults(sizes=((*small, 200), (*small, 800), (*large, 50)), draws=16)
    asked = parse(parser, argv, rounds=1, sizes=(("8-6-4-2", 8, (6, 4), 2, 20),), draws=4)
    torch.set_num_threads(1)
    print(machine())
    print("| decoder of a Gaussian VAE | loop | drops, one q | ratio | drops, q refitted |\n|---|---|---|---|---|")
    for name, size, hidden, latent, n in asked.sizes:
        compare(name, size, hidden, latent, n, asked.draws, asked.rounds)
    shares(*asked.sizes[0], asked.draws, asked.rounds)


if __name__ == "__main__":
    main()
