"""The leave-out engine on the BinarizedMNIST configuration: the straightforward way against genmem.

1024-512-256-16 Bernoulli VAE on images padded to 32 x 32, batches of 64, Adam at 1e-3.

- straightforward: one model at a time, a DataLoader with transforms in Python for every item (PIL, padding, a new
  binarisation at every read), sigmoid and binary cross-entropy, full-covariance Gaussians for a diagonal posterior, all
  256 draws of a batch materialised as repeats. Loaded in this process or by two loader processes, whichever is faster.
- tidy: the same model with all that mended by hand: tensors in memory, logits, diagonal Gaussians, fused Adam.
- genmem: as its probe decides on this machine (threads, processes, lanes), and each way by itself.

`--study` also measures what a score costs at equal standard error: both ways refit the same small design, and the
variance of a score between repeats says how many repeats each needs.
"""

import os
import statistics
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from common import in_turn, machine, options, parse, print_times, seconds
from PIL import Image, ImageOps
from torch import nn
from torch.distributions import MultivariateNormal
from torch.utils.data import DataLoader, Dataset

from genmem.leaveout.executors import local_workers
from genmem.leaveout.scoring import memorization_score
from genmem.models import VAE, log_prob
from genmem.run.splits import Splits
from genmem.training import Lane, train

DRAWS = 256
BATCH = 64
LATENT = 16

# --- the straightforward way


class Binarized(Dataset):
    """Images as they are read in a first script: PIL, padding, a fresh binarisation, one at a time."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = ImageOps.expand(Image.fromarray(self.images[i]), border=2)
        x = torch.from_numpy(np.array(image)).float().div(255).view(-1)
        return torch.bernoulli(x)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(256, LATENT), nn.Linear(256, LATENT)
        layers = [nn.Linear(LATENT, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 1024)]
        self.decoder = nn.Sequential(*layers)

    def encode(self, x):
        h = self.encoder(x)
        return self.mean(h), self.log_variance(h)


def straightforward_training(images, epochs, loader_workers):
    model = Plain()
    loader = DataLoader(Binarized(images), BATCH, shuffle=True, num_workers=loader_workers)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for x in loader:
            optimiser.zero_grad()
            mean, log_variance = model.encode(x)
            z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            p = torch.sigmoid(model.decoder(z))
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
            loss = F.binary_cross_entropy(p, x, reduction="none").sum(-1) + kl
            loss.mean().backward()
            optimiser.step()
    return model


@torch.no_grad()
def straightforward_log_prob(model, images, loader_workers, draws=DRAWS):
    parts, prior = [], MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT))
    for x in DataLoader(Binarized(images), BATCH, num_workers=loader_workers):
        mean, log_variance = model.encode(x)
        n = len(x)
        x, mean, log_variance = (t.repeat_interleave(draws, 0) for t in (x, mean, log_variance))
        q = MultivariateNormal(mean, torch.diag_embed(log_variance.exp()))
        z = q.sample()
        p = torch.sigmoid(model.decoder(z))
        log_w = -F.binary_cross_entropy(p, x, reduction="none").sum(-1) + prior.log_prob(z) - q.log_prob(z)
        parts.append(torch.logsumexp(log_w.view(n, draws), 1) - np.log(draws))
    return torch.cat(parts).numpy()


# --- the same, mended by hand


def tidy_training(X, epochs):
    model = Plain()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(X))
        for i in range(0, len(X) - BATCH + 1, BATCH):
            x = X[order[i : i + BATCH]]
            optimiser.zero_grad()
            mean, log_variance = model.encode(x)
            logits = model.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
            loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1) + kl
            loss.mean().backward()
            optimiser.step()
    return model


@torch.no_grad()
def tidy_log_prob(model, X, draws=DRAWS):
    parts = []
    for i in range(0, len(X), BATCH):
        x = X[i : i + BATCH]
        mean, log_variance = model.encode(x)
        eps = torch.randn(draws, *mean.shape)
        z = mean + (0.5 * log_variance).exp() * eps
        logits = model.decoder(z)
        log_w = (x * logits - F.softplus(logits)).sum(-1) + 0.5 * (log_variance + eps.square() - z.square()).sum(-1)
        parts.append(torch.logsumexp(log_w, 0) - np.log(draws))
    return torch.cat(parts).numpy()


# --- genmem


def our_model(X, epochs, every_column=False):
    """As an audit makes it: columns that never vary are left out, unless every column is asked for."""
    constants = () if every_column else None
    model = VAE(hidden=(512, 256), latent_dim=LATENT, likelihood="bernoulli", constants=constants, epochs=epochs)
    return model.set_params(device="cpu").resolve(X)


def our_training(X, lanes, batched, epochs, every_column=False, seed=0):
    recipe = our_model(X, epochs, every_column).recipe(X.shape[1:], len(X), seed=seed)
    many = [Lane(np.arange(len(X)), seed + i, 0) for i in range(lanes)]
    return train(recipe, torch.from_numpy(X), many, batched=batched)


def our_log_prob(X, module, draws):
    return log_prob(module, torch.from_numpy(X), draws=draws, seed=0).log_prob


def in_workers(executor, workers, call):
    """Run `call(worker)` in every worker at once and wait."""
    for future in [executor.submit(call, i) for i in range(workers)]:
        future.result()


def train_part(X, lanes, batched, every_column, worker):
    our_training(X, lanes, batched, 1, every_column, seed=worker * lanes)


def score_part(X, model, draws, worker):
    our_log_prob(X, model.make_module(X.shape[1:]), draws)


# --- the comparison


def a_model(way):
    call, models = way
    return seconds(call) / models


def compare(images, X, rounds, draws):
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    flat, some, some_images = torch.from_numpy(X).float(), X[: len(X) // 10], images[: len(X) // 10]
    whole, fewer, plain = our_model(X, 1, every_column=True), our_model(X, 1), Plain()
    print(f"{X.shape[1] - len(fewer.constants)} of {X.shape[1]} columns are kept by default")
    with local_workers(cores, 1) as executor:
        together = partial(in_workers, executor, cores)
        together(partial(train_part, X[:128], 1, False, False))  # everybody has started
        ways = {
            "straightforward": (lambda: straightforward_training(images, 1, 0), 1),
            "straightforward, 2 loader processes": (lambda: straightforward_training(images, 1, 2), 1),
            "tidy": (lambda: tidy_training(flat, 1), 1),
            f"genmem, every column, {threads} threads": (lambda: our_training(X, 1, False, 1, True), 1),
            f"genmem, every column, {cores} processes": (
                lambda: together(partial(train_part, X, 5, True, True)),
                5 * cores,
            ),
            f"genmem, {threads} threads": (lambda: our_training(X, 1, False, 1), 1),
            f"genmem, 5 lanes, {threads} threads": (lambda: our_training(X, 5, True, 1), 5),
            f"genmem, {cores} processes": (lambda: together(partial(train_part, X, 1, False, False)), cores),
            f"genmem, {cores} processes of 5 lanes": (
                lambda: together(partial(train_part, X, 5, True, False)),
                5 * cores,
            ),
        }
        training = in_turn(ways, rounds, a_model)
        print_times(f"training, seconds an epoch of {len(X):,} images and model", training, "straightforward")
        ways = {
            "straightforward": (lambda: straightforward_log_prob(plain, some_images, 0, draws), 1),
            "straightforward, 2 loader processes": (
                lambda: straightforward_log_prob(plain, some_images, 2, draws),
                1,
            ),
            "tidy": (lambda: tidy_log_prob(plain, flat[: len(some)], draws), 1),
            f"genmem, every column, {cores} processes": (
                lambda: together(partial(score_part, some, whole, draws)),
                cores,
            ),
            f"genmem, {threads} threads": (lambda: our_log_prob(some, fewer.make_module(X.shape[1:]), draws), 1),
            f"genmem, {cores} processes": (lambda: together(partial(score_part, some, fewer, draws)), cores),
        }
        scoring = in_turn(ways, rounds, a_model)
        print_times(f"log p at {draws} draws, seconds for {len(some):,} images and model", scoring, "straightforward")
    return training, scoring


# --- at equal standard error


def study(images, X, splits, epochs, most):
    """Variance of a score between repeats, both ways, on one design: (straightforward, tidy, genmem by draws)."""
    torch.set_num_threads(1)  # nothing is timed here
    found = {"straightforward": [], **{f"fixed data, {draws} draws": [] for draws in fewer_draws(most)}}
    tensor = torch.from_numpy(X)
    recipe = our_model(X, epochs).recipe((1024,), int((~splits.held_out).sum(1).min()), seed=0)
    for split, out in enumerate(splits.held_out):
        torch.manual_seed(split)
        model = straightforward_training(images[~out], epochs, 0)
        found["straightforward"].append(straightforward_log_prob(model, images, 0, most))
        lane = Lane(np.flatnonzero(~out), split, int(splits.repeat[split]))
        (module,) = train(recipe, tensor, [lane], batched=False)
        for draws in fewer_draws(most):
            keys = (int(splits.repeat[split]),)
            values = log_prob(module, tensor, draws=draws, seed=0, keys=keys).log_prob
            found[f"fixed data, {draws} draws"].append(values)
        print(f"  split {split + 1} of {len(splits.held_out)}", flush=True)
    print(f"\nbetween repeats: {splits.n} images, {epochs} epochs, {splits.n_splits} refits")
    variances = {}
    for way, rows in found.items():
        for estimator in ("log_mean", "mean_log"):
            scores = memorization_score(np.stack(rows), splits.held_out, estimator=estimator, repeat=splits.repeat)
            variance = float((scores.standard_error**2).mean() * splits.n_repeats)
            variances[way, estimator] = variance
            print(
                f"  {way:<24} {estimator:<9} mean M {scores.score.mean():6.2f}   variance of a repeat {variance:7.2f}"
                f"   reliability {scores.reliability:.2f}"
            )
    return variances


def fewer_draws(most):
    return most, most // 4, most // 16


def totals(training, scoring, variances, n, most, epochs=100):
    """Print the time ratio at equal error, for log p at the last epoch only and at every fifth."""
    cores = len(os.sched_getaffinity(0))
    some = n // 10
    fast = [way for way in training if way.startswith("genmem")]
    train_us = min(statistics.median(training[way]) for way in fast)
    score_us = min(statistics.median(scoring[way]) for way in scoring if way.startswith("genmem")) * n / some
    slow = [way for way in training if way.startswith("straightforward")]
    train_them = min(statistics.median(training[way]) for way in slow)
    score_them = min(statistics.median(scoring[way]) for way in slow) * n / some
    print(f"\ntotal at equal standard error, {epochs} epochs, {cores} cores (seconds a model x variance of a score)")
    for passes in (1, epochs // 5):
        theirs = (epochs * train_them + passes * score_them) * variances["straightforward", "log_mean"]
        fair = (epochs * train_them + passes * score_them) * variances["straightforward", "mean_log"]
        for draws in fewer_draws(most):
            ours = (epochs * train_us + passes * score_us * draws / most) * variances[
                f"fixed data, {draws} draws", "mean_log"
            ]
            print(
                f"  log p {passes} times, {draws} draws: {theirs / ours:5.1f}x "
                f"({fair / ours:.1f}x if the straightforward way also takes the mean of logs)"
            )


def load_images(path, n):
    if path is None:
        rng = np.random.default_rng(0)
        blobs = rng.random((n, 28, 28)) < 0.2
        return (255 * blobs * rng.random((n, 28, 28))).astype(np.uint8)
    with np.load(path) as stored:
        images = stored["x_train"]
    return np.ascontiguousarray(images[np.random.default_rng(0).permutation(len(images))[:n]])


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--mnist", help="an .npz file with x_train; made-up images without it")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--study", type=int, metavar="N", help="also compare at equal error, on N images")
    parser.add_argument("--study-epochs", type=int, default=40)
    parser.set_defaults(folds=5, repeats=4)
    asked = parse(parser, argv, images=100, rounds=1, draws=16, study=40, study_epochs=1, folds=2, repeats=2)
    print(machine())
    images = load_images(asked.mnist, asked.images)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2))).reshape(len(images), -1) / 255
    X = (np.random.default_rng(1).random(padded.shape) < padded).astype(np.uint8)
    training, scoring = compare(images, X, asked.rounds, asked.draws)
    if asked.study:
        n = asked.study
        splits = Splits.k_fold(n, asked.folds, asked.repeats)
        variances = study(images[:n], X[:n], splits, asked.study_epochs, asked.draws)
        totals(training, scoring, variances, len(X), asked.draws)


if __name__ == "__main__":
    main()
