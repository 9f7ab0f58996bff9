"""Held-out log p of every built-in density on one split: are these models worth auditing?

Every model is scored in the same units: log P of the whole 8-bit image (digits: of its 17 levels). Continuous models
are fitted to values dequantised once, (level + u) / levels, and log P >= log p - D log levels (by Jensen); models of
discrete levels score the levels themselves. Bits per dimension are -log P / (D log 2). Models of binarised pixels are
another task, in a table of their own, beside independent Bernoulli pixels.

scikit-learn's mixture and kernel density get their best settings on a validation part of the training data, genmem's
models the settings printed. Standard errors are over test examples.
"""

import time
import warnings
from contextlib import suppress

import numpy as np
from common import machine, options, parse
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import genmem
from genmem.models.torch_kde import choose_bandwidth

SHOWN = "{:<38} {:>9.2f} {:>6.2f} {:>7.3f} {:>7.0f} s  {}"


def split(name, path, n_train, n_test):
    """Return training and test levels, uint8 (n, h, w), and the number of levels."""
    if name == "digits":
        levels = load_digits().images.astype(np.uint8)
        order = np.random.default_rng(0).permutation(len(levels))
        return levels[order[:-360]][:n_train], levels[order[-360:]][:n_test], 17
    with np.load(path) as arrays:
        return arrays["x_train"][:n_train], arrays["x_test"][:n_test], 256


def dequantised(levels, count, seed):
    noise = np.random.default_rng(seed).integers(2**16, size=levels.shape) / 2**16
    return ((levels + noise) / count).astype(np.float32)


def binarised(levels, count, seed):
    return (np.random.default_rng(seed).random(levels.shape) < levels / (count - 1)).astype(np.uint8)


def vector(X):
    return X.reshape(len(X), -1)


def best_mixture(X, most=60, seed=0):
    """Return scikit-learn's mixture with the settings that do best on the last tenth of the training data."""
    cut, tried = len(X) - len(X) // 10, {}
    for covariance in ("full", "diag"):
        for components in [c for c in (1, 3, 10, 30, 60) if c <= most]:
            for floor in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
                model = GaussianMixture(components, covariance_type=covariance, reg_covar=floor, random_state=seed)
                if covariance == "full" and components * X.shape[1] ** 2 > 2e6:
                    continue
                with suppress(ValueError):  # a component may have collapsed
                    tried[covariance, components, floor] = model.fit(X[:cut]).score(X[cut:])
    covariance, components, floor = max(tried, key=tried.get)
    return GaussianMixture(components, covariance_type=covariance, reg_covar=floor, random_state=seed)


def print_row(name, log_p, offset, dimensions, seconds, note):
    bits = -(log_p + offset) / (dimensions * np.log(2))
    error = (log_p + offset).std(ddof=1) / np.sqrt(len(log_p))
    print(SHOWN.format(name, (log_p + offset).mean(), error, bits.mean(), seconds, note), flush=True)


def measure(name, model, train, test, offset, note=""):
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = model.fit(train)
        log_p = np.asarray(fitted.score_samples(test), float)
    print_row(name, log_p, offset, np.prod(test.shape[1:]), time.perf_counter() - start, note)


def settings(model):
    """Return the settings in which a model differs from its defaults."""
    defaults = type(model)().get_params()
    return " ".join(f"{k}={v}" for k, v in model.get_params().items() if defaults[k] != v) or "defaults"


def networks(name, count, epochs):
    """Return (name, model, kind of data) of genmem's models at sizes that suit the data set."""
    small = name == "digits"
    vae = {"hidden": [128, 64] if small else [512, 256], "latent_dim": 8 if small else 16, "epochs": epochs["vae"]}
    conv = {"latent_dim": 8 if small else 16, "epochs": epochs["conv"]}
    steps = {"likelihood": "discretized_logistic", "levels": count}
    logit = {"logit": 0.05 if small else 1e-3}
    return [
        ("VAE gaussian", genmem.VAE(**vae), "vector"),
        ("VAE gaussian, a variance a pixel", genmem.VAE(**vae, variance="pixel"), "vector"),
        ("VAE logit_normal", genmem.VAE(**vae, likelihood="logit_normal"), "vector"),
        (
            "VAE logit_normal, a variance a pixel",
            genmem.VAE(**vae, likelihood="logit_normal", variance="pixel"),
            "vector",
        ),
        ("VAE discretized_logistic", genmem.VAE(**vae, **steps), "levels"),
        ("ConvVAE logit_normal", genmem.ConvVAE(**conv, likelihood="logit_normal"), "image"),
        ("ConvVAE discretized_logistic", genmem.ConvVAE(**conv, **steps), "level images"),
        ("Flow affine (logit)", genmem.Flow(kind="affine", epochs=epochs["flow"], **logit), "vector"),
        ("Flow spline (logit)", genmem.Flow(kind="spline", epochs=epochs["flow"], **logit), "vector"),
        ("DiffusionModel, bound", genmem.DiffusionModel(epochs=epochs["diffusion"]), "vector"),
        ("MixtureOfFactorAnalysers", genmem.MixtureOfFactorAnalysers(epochs=epochs["mfa"]), "vector"),
    ]


def data_of(name, path, n_train, n_test):
    """Return (training, test) of each kind, and the number of levels."""
    levels, test_levels, count = split(name, path, n_train, n_test)
    data = {
        "image": (dequantised(levels, count, 0), dequantised(test_levels, count, 1)),
        "level images": (levels, test_levels),
        "binary": (vector(binarised(levels, count, 0)), vector(binarised(test_levels, count, 1))),
    }
    data["vector"] = tuple(vector(X) for X in data["image"])
    data["levels"] = (vector(levels), vector(test_levels))
    data["binary images"] = tuple(X.reshape(-1, *levels.shape[1:]) for X in data["binary"])
    return data, count


def whole_levels(name, data, count, epochs, only, most):
    """Print the table of models of 8-bit pixels."""
    train, test = data["vector"]
    to_levels = -train.shape[1] * np.log(count)
    print(f"{name}: {len(train)} train, {len(test)} test, D = {train.shape[1]}, {count} levels")
    print(f"{'model':<38} {'nats':>9} {'+-':>6} {'bits/D':>7} {'took':>9}")
    if only in "scikit-learn GaussianMixture":
        model = best_mixture(train, most)
        measure("scikit-learn GaussianMixture", model, train, test, to_levels, settings(model))
    if only in "scikit-learn KernelDensity":
        bandwidth = choose_bandwidth(train)
        kernels = KernelDensity(bandwidth=bandwidth, leaf_size=len(train))
        measure("scikit-learn KernelDensity", kernels, train, test, to_levels, f"{bandwidth=:.3g}")
    for row, model, kind in networks(name, count, epochs):
        if only in row:
            measure(row, model, *data[kind], 0.0 if "level" in kind else to_levels, settings(model))


def binary_pixels(name, data, epochs, only):
    """Print the table of models of binarised pixels."""
    print("binarised pixels")
    train, test = data["binary"]
    if only in "independent Bernoulli":
        p = (train.sum(0) + 0.5) / (len(train) + 1)
        log_p = (test * np.log(p) + (1 - test) * np.log1p(-p)).sum(1)
        print_row("independent Bernoulli", log_p, 0, train.shape[1], 0, "")
    small = name == "digits"
    vae = {"hidden": [128, 64] if small else [512, 256], "latent_dim": 8 if small else 16, "likelihood": "bernoulli"}
    conv = {"latent_dim": 8 if small else 16, "likelihood": "bernoulli", "epochs": epochs["conv"]}
    for row, model, kind in [
        ("VAE bernoulli", genmem.VAE(epochs=epochs["vae"], **vae), "binary"),
        ("ConvVAE bernoulli", genmem.ConvVAE(**conv), "binary images"),
    ]:
        if only in row:
            measure(row, model, *data[kind], 0.0, settings(model))


USUAL = {
    "digits": {"vae": 200, "conv": 100, "flow": 60, "diffusion": 300, "mfa": 200},
    "mnist": {"vae": 30, "conv": 10, "flow": 15, "diffusion": 60, "mfa": 40},
}


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--mnist", help="mnist.npz: x_train, x_test; digits without it")
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=2_000)
    parser.add_argument("--only", default="", help="only rows whose name holds this text")
    parser.add_argument("--scale", type=float, default=1.0, help="of all epochs")
    parser.set_defaults(components=60)
    asked = parse(parser, argv, train=100, test=20, scale=0.0, components=1)
    name = "mnist" if asked.mnist else "digits"
    epochs = {kind: max(1, round(usual * asked.scale)) for kind, usual in USUAL[name].items()}
    data, count = data_of(name, asked.mnist, asked.train, asked.test)
    print(machine("scikit-learn"))
    whole_levels(name, data, count, epochs, asked.only, asked.components)
    binary_pixels(name, data, epochs, asked.only)


if __name__ == "__main__":
    main()
