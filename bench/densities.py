"""Exact leave-one-out scores of kernel and k-NN densities at 60,000 images, against refits and full matrices.

    bench/densities.py --mnist FILE          # an hour or two on two cores; --sizes 2000 10000 for minutes

Every size and way runs in a process of its own, one at a time, so that its peak memory is its own. Rows are pixels /
255 as float64 (made-up rows of the same shape without --mnist). What is measured:

- genmem: `leave_one_out`, every example.
- scikit-learn, refits: `KernelDensity` or `NearestNeighbors` fitted without one example, then scored at it, for a few
  examples; extrapolated to all ("one x times"). Trees with their defaults, ball trees, a tree of one leaf (the most
  accurate, and the fastest in 784 dimensions), and for neighbours brute force.
- scikit-learn, once: what a careful user does. One fit on all, the self term subtracted. For kernels, a few examples
  extrapolated; in float64 that loses isolated examples, whose S_i is below rounding beside K(0) = 1: they are counted.
- full matrix: torch and scipy.spatial.distance.cdist, the n x n distances held at once, where they fit in memory.

"apart" is the largest difference from genmem's scores, nats. The share of the peak counts a multiplication and an
addition for each of d + 2 values of each *pair of different examples once*, n (n - 1) / 2 pairs, over what a float64
matrix product of 2048 x 786 x 2048 reaches in the same process just before. (Neighbours are searched in float32.)
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from common import like_mnist, machine, options, parse, require, slower, spread
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity, NearestNeighbors

from genmem.leaveout import leave_one_out
from genmem.models import KNNDensity, TorchKernelDensity

K = 10
BANDWIDTH = 0.2  # near what choose_bandwidth finds: .18 on 5,000 images


def rows(mnist, n):
    if mnist:
        with np.load(mnist) as data:
            images = data["x_train"].reshape(-1, 784)
        return images[np.random.default_rng(0).permutation(len(images))[:n]] / 255
    return np.random.default_rng(0).random((n, 784)) * 0.4


def peak(size=2048):
    """Return float64 matrix products here and now, flop/s."""
    a, b = torch.rand(size, 786, dtype=torch.float64), torch.rand(786, size, dtype=torch.float64)
    best = math.inf
    for _ in range(7):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size * 786 * size / best


# --- ways: each returns (scores of all or some examples, by what to multiply its seconds)


def genmem_kde(X, some):
    return leave_one_out(TorchKernelDensity(bandwidth=BANDWIDTH, device="cpu"), X).score, 1


def genmem_knn(X, some):
    return leave_one_out(KNNDensity(k=K), X).score, 1


def kde_refits(X, some, **settings):
    scores = []
    log_in = KernelDensity(bandwidth=BANDWIDTH, **settings).fit(X).score_samples(X[some])
    for i, inside in zip(some, log_in, strict=True):
        model = KernelDensity(bandwidth=BANDWIDTH, **settings).fit(np.delete(X, i, axis=0))
        scores.append(inside - model.score_samples(X[i : i + 1])[0])
    return np.array(scores), len(X) / len(some)


def kde_refits_one_leaf(X, some):
    return kde_refits(X, some, leaf_size=len(X))


def kde_refits_ball_tree(X, some):
    return kde_refits(X, some, algorithm="ball_tree")


def kde_once(X, some):
    n = len(X)
    model = KernelDensity(bandwidth=BANDWIDTH, leaf_size=n).fit(X)
    log_in = model.score_samples(X[some])
    constant = X.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(BANDWIDTH))
    with np.errstate(divide="ignore", invalid="ignore"):
        others = np.log(np.expm1(log_in + constant + math.log(n)))
        score = np.logaddexp(0, -others) + math.log((n - 1) / n)
    return score, n / len(some)


def kde_full_torch(X, some):
    x = torch.from_numpy(X)
    norms = x.square().sum(1)
    L = (x @ x.T).mul_(2).sub_(norms).sub_(norms[:, None]).mul_(0.5 / BANDWIDTH**2)
    L.fill_diagonal_(-math.inf)
    others = torch.logsumexp(L, 1).numpy()
    return np.logaddexp(0, -others) + math.log((len(X) - 1) / len(X)), 1


def kde_full_cdist(X, some):
    L = cdist(X, X, "sqeuclidean") * (-0.5 / BANDWIDTH**2)
    np.fill_diagonal(L, -np.inf)
    return np.logaddexp(0, -logsumexp(L, axis=1)) + math.log((len(X) - 1) / len(X)), 1


def _knn_score(inner, outer, n, d):
    return math.log((n - 1) / n) + d * np.log(outer / inner)


def knn_refits(X, some, algorithm):
    inner = NearestNeighbors(n_neighbors=K, algorithm=algorithm).fit(X).kneighbors(X[some])[0][:, -1]
    outer = []
    for i in some:
        found = NearestNeighbors(n_neighbors=K, algorithm=algorithm).fit(np.delete(X, i, axis=0))
        outer.append(found.kneighbors(X[i : i + 1])[0][0, -1])
    return _knn_score(inner, np.array(outer), *X.shape), len(X) / len(some)


def knn_refits_brute(X, some):
    return knn_refits(X, some, "brute")


def knn_refits_tree(X, some):
    return knn_refits(X, some, "ball_tree")


def knn_once_brute(X, some):
    distances = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(X).kneighbors()[0]  # itself left out
    return _knn_score(distances[:, -2], distances[:, -1], *X.shape), 1


def knn_full_cdist(X, some):
    D = cdist(X, X)
    np.fill_diagonal(D, np.inf)
    D.partition((K - 2, K - 1), axis=1)
    return _knn_score(D[:, K - 2], D[:, K - 1], *X.shape), 1


FULL = 20_000  # examples whose n x n float64 distances, with a copy, fit in memory
WAYS = {
    "kde": (
        genmem_kde,
        kde_refits,
        kde_refits_ball_tree,
        kde_refits_one_leaf,
        kde_once,
        kde_full_torch,
        kde_full_cdist,
    ),
    "knn": (genmem_knn, knn_refits_brute, knn_refits_tree, knn_once_brute, knn_full_cdist),
}
ALL = {way.__name__: way for ways in WAYS.values() for way in ways}


def once(way, n, mnist, refits, size=2048):
    """Run one way in this process and return what it took."""
    X = rows(mnist, n)
    some = np.sort(np.random.default_rng(1).choice(n, min(refits, n), replace=False))
    reached = peak(size)
    ALL[way](X[: min(n, 600)], some[some < min(n, 600)][:2] if (some < min(n, 600)).any() else np.arange(2))  # warm up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    score, times = ALL[way](X, some)
    seconds = (time.perf_counter() - start) * times
    found = score[some] if len(score) == n else score
    return {
        "seconds": seconds,
        "times": times,
        "gemm": reached,
        "share": n * (n - 1) * (X.shape[1] + 2) / seconds / reached,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mb": before / 1024,
        "data_mb": X.nbytes / 2**20,
        "some": found.tolist(),
        "lost": int((~np.isfinite(score)).sum()),
    }


def measured(way, n, arguments):
    """Run one way in a process of its own; with --smoke only the first of all, the others here."""
    if arguments.smoke and (way, n) != ("genmem_kde", arguments.sizes[0]):
        return once(way, n, arguments.mnist, arguments.refits, size=256)
    command = [sys.executable, __file__, "--once", way, "--n", str(n), "--refits", str(arguments.refits)]
    command += ["--mnist", arguments.mnist] if arguments.mnist else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(question, n, arguments):
    """Measure every way in turn, round after round, and print a line for each."""
    ways = [way.__name__ for way in WAYS[question]]
    ways = [way for way in ways if not ("full" in way and n > arguments.full)]
    found = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way in ways:
            found[way].append(measured(way, n, arguments))
    ours = found[ways[0]]
    print(f"\n{question}, n = {n:,}")
    for way, runs in found.items():
        ratios = slower(*([run["seconds"] for run in some] for some in (runs, ours)))
        gap = np.abs(np.array(runs[0]["some"]) - ours[0]["some"])
        exact = "once" not in way and "tree" not in way and way != "kde_refits"
        require(not exact or gap.max() < 1e-2, f"{way} differs by {gap.max():.1e} nats")
        times = runs[0]["times"]
        print(
            f"  {way:<22} {statistics.median(run['seconds'] for run in runs):12.2f} s"
            f"{f' (one x {times:.0f})' if times > 1 else '':<14}"
            f" {spread(ratios)}"
            f"  peak {max(run['peak_mb'] for run in runs):6.0f} MB, {runs[0]['data_mb']:.0f} of it data"
            f"  apart by {gap[np.isfinite(gap)].max(initial=0):.1e}"
            + (f", {runs[0]['lost']} lost" if runs[0]["lost"] else "")
        )
    shares = sorted(run["share"] for run in ours)
    gemm = statistics.median(run["gemm"] for run in ours) / 1e9
    print(
        f"  genmem: {statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f}) of the float64 GEMM of "
        f"the same process, {gemm:.0f} GFLOP/s, each pair counted once"
    )
    return [run["seconds"] for run in ours]


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--mnist", help="an .npz with x_train")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 10_000, 60_000])
    parser.add_argument("--questions", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--refits", type=int, default=5, help="timed with scikit-learn, and extrapolated")
    parser.add_argument("--full", type=int, default=FULL, help="examples up to which full matrices are tried")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, help=argparse.SUPPRESS)
    arguments = parse(parser, argv, sizes=[100, 200], rounds=1, refits=2)
    if arguments.once:
        print(json.dumps(once(arguments.once, arguments.n, arguments.mnist, arguments.refits)))
        return
    arguments.mnist = like_mnist() if arguments.smoke else arguments.mnist
    rows_of = "MNIST" if arguments.mnist else "made-up rows"
    print(f"{machine('scikit-learn')}, {rows_of}, {arguments.rounds} rounds")
    for question in arguments.questions:
        medians = [statistics.median(compare(question, n, arguments)) for n in arguments.sizes]
        for (a, s), (b, t) in zip(
            zip(arguments.sizes, medians, strict=True),
            zip(arguments.sizes[1:], medians[1:], strict=False),
            strict=False,
        ):
            print(f"  {question}: grows as n^{math.log(t / s) / math.log(b / a):.2f} from {a:,} to {b:,}")


if __name__ == "__main__":
    main()
