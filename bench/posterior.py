"""The encoder's bias in memorization scores: its size, whether more draws cure it, what refitting posteriors costs.

Trains leave-out refits of a VAE (digits; with --mnist also binarised MNIST), then scores a random sample of examples
through the encoder with more and more draws, and with posteriors refitted in more and more steps. Seconds are those
of the process on one thread.
"""

import time

import numpy as np
import torch
from common import like_mnist, machine, options, parse
from sklearn.datasets import load_digits

from genmem.leaveout.encoder_bias import mean_over_examples, parts
from genmem.models import VAE
from genmem.models.posterior import STEPS, refit_posterior
from genmem.run.splits import Splits
from genmem.training import Lane, train

AMORTISED = (1, 4, 16, 64, 256, 1024)
BY_STEPS = (0, 10, 25, 50, 100, 150, 300, 1000)
BY_DRAWS = (1, 4, 16, 64)


def processor_seconds(call):
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def trained(model, X, splits, batched):
    recipe = model.recipe(X.shape[1:], int((~splits.held_out).sum(1).min()), seed=0)
    lanes = [Lane(np.flatnonzero(~out), s, int(splits.repeat[s])) for s, out in enumerate(splits.held_out)]
    groups = [lanes] if batched else [[lane] for lane in lanes]
    return [module for group in groups for module in train(recipe, torch.from_numpy(X), group, batched=batched)]


class Study:
    """Scores of a sample of examples under all refits."""

    def __init__(self, X, splits, modules, sample):
        self.x, self.modules, self.sample, self.n = torch.from_numpy(X[sample]), modules, sample, len(X)
        self.held_out, self.repeat = splits.held_out[:, sample], splits.repeat

    def refitted(self, steps, draws):
        rows = {"rows": self.sample, "steps": steps, "draws": draws, "seed": 0}
        found, cost = processor_seconds(
            lambda: [
                refit_posterior(module, self.x, keys=(int(r),), **rows)
                for module, r in zip(self.modules, self.repeat, strict=True)
            ]
        )
        per_example = cost / len(self.modules) / len(self.sample)
        return np.stack([f.log_prob for f in found]), found, per_example

    def score(self, ell):
        return np.nanmean(parts(ell, ell, self.held_out, self.repeat)[0], axis=0)

    def line(self, name, ell, found, cost, reference):
        score, base = self.score(ell), self.score(reference)
        effective = np.mean([f.effective_draws.mean() for f in found])
        variance = [
            np.mean([f.variance[o].mean() for f, o in zip(found, some, strict=True)]) for some in self._in_out()
        ]
        top = np.sort(score)[-max(1, len(score) // 20) :].mean()
        together = np.corrcoef(score, base)[0, 1]
        print(
            f"  {name:<28} {score.mean():7.2f} {top:9.2f} {together:9.3f} {effective:8.1f} "
            f"{variance[0]:7.3f} {variance[1]:7.3f} {1e3 * cost:9.3f}",
            flush=True,
        )

    def _in_out(self):
        return [~out for out in self.held_out], list(self.held_out)


def study(name, X, model, folds, repeats, scored, batched, most):
    model, splits = model.resolve(X), Splits.k_fold(len(X), folds, repeats, seed=0)
    modules, training = processor_seconds(lambda: trained(model, X, splits, batched))
    sample = np.sort(np.random.default_rng(0).choice(len(X), min(scored, len(X)), replace=False))
    found = Study(X, splits, modules, sample)
    print(
        f"\n{name}: {len(X)} examples, {folds} folds x {repeats} repeats, {model.epochs} epochs, {len(sample)} scored"
    )
    print(f"  {'':<28} {'mean M':>7} {'top 5%':>9} {'corr.':>9} {'ESS':>8} {'var in':>7} {'var out':>7} {'ms':>9}")
    default = found.refitted(STEPS, 16)
    for draws in (d for d in AMORTISED if d <= most):
        found.line(f"encoder, {draws} draws", *found.refitted(0, draws), default[0])
    for steps in (s for s in BY_STEPS if s <= most):
        found.line(f"{steps} steps, 16 draws", *found.refitted(steps, 16), default[0])
    for draws in BY_DRAWS:
        found.line(f"{STEPS} steps, {draws} draws", *found.refitted(STEPS, draws), default[0])
    decoder, encoder = parts(found.refitted(0, 64)[0], default[0], found.held_out, found.repeat)
    bias = mean_over_examples(-encoder, found.held_out, found.repeat, len(X))
    print(f"  bias of 64 draws: {bias.value:.2f} ({bias.interval[0]:.2f} to {bias.interval[1]:.2f}, over {bias.over})")
    a_split, refit = training / splits.n_splits, default[2] * len(X)
    print(f"  one split: training {a_split:.2f} s, refitting all {refit:.2f} s: {refit / a_split:.2f} of training")


def mnist(path, images):
    raw, rng = np.load(path)["x_train"], np.random.default_rng(0)
    rows = np.sort(rng.choice(len(raw), images, replace=False))
    return (rng.random((images, 784)) < raw[rows].reshape(images, -1) / 255).astype(np.uint8)


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--mnist", help="mnist.npz")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=100, help="of MNIST")
    parser.add_argument("--repeats", type=int, default=1, help="of MNIST")
    parser.set_defaults(digits=1797, digits_epochs=200, digits_repeats=4, scored=(600, 300), most=1024)
    tiny = {"images": 80, "epochs": 1, "digits": 120, "digits_epochs": 2, "scored": (40, 20), "most": 16}
    tiny["digits_repeats"] = 1
    asked = parse(parser, argv, **tiny)
    asked.mnist = like_mnist() if asked.smoke else asked.mnist
    torch.set_num_threads(1)
    print(machine())
    digits = (load_digits().data[: asked.digits] / 16).astype(np.float32)
    small = VAE(hidden=(128, 64), latent_dim=8, epochs=asked.digits_epochs)
    how = {"folds": 5, "most": asked.most}
    study(
        "digits, 64-128-64-8", digits, small, repeats=asked.digits_repeats, scored=asked.scored[0], batched=True, **how
    )
    if asked.mnist:
        large = VAE(hidden=(512, 256), latent_dim=16, likelihood="bernoulli", epochs=asked.epochs)
        X = mnist(asked.mnist, asked.images)
        study("MNIST, 784-512-256-16", X, large, repeats=asked.repeats, scored=asked.scored[1], batched=False, **how)


if __name__ == "__main__":
    main()
