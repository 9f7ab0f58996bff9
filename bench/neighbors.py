"""Searches at audit sizes: genmem against scikit-learn, torch.cdist and a plain GEMM; C_T; the whole check.

    python bench/neighbors.py search                    # 1,000 x 60,000 x 784 and 50,000 x 50,000 x 64
    python bench/neighbors.py copying                   # C_T against the straightforward way
    python bench/neighbors.py copycheck --mnist FILE    # 60,000 / 10,000 / 10,000, seconds and peak memory
    python bench/neighbors.py memory                    # 60,000 queries in 10,000 rows of 784
    python bench/neighbors.py index                     # IVF and HNSW: recall, seconds

Every way runs in turn in each round, so a busy machine slows all alike; ratios are of one round. `--shrink 10` divides
the numbers of rows. Peers run at the best of several settings, found before the rounds.
"""

import argparse
import cProfile
import platform
import pstats
import resource
import statistics
import time

import faiss
import numpy as np
import sklearn
import torch
from scipy.stats import mannwhitneyu
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from genmem.search import nearest

CLOCK = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCK["wall"]


def timed(call):
    start = clock()
    call()
    return clock() - start


def best(calls):
    """Return the fastest of several settings, each tried twice."""
    return min(calls, key=lambda call: min(timed(call), timed(call)))


def fastest(settings, call_of):
    """Return the setting with which a call is fastest."""
    return min(settings, key=lambda setting: min(timed(call_of(setting)) for _ in range(2)))


def in_turn(ways, rounds, unit):
    """Print the median of each way, and of its ratio to the way `unit` within a round."""
    times = {way: [] for way in ways}
    for _ in range(rounds):
        for way, call in ways.items():
            times[way].append(timed(call))
    for way, values in times.items():
        ratios = sorted(value / one for value, one in zip(values, times[unit], strict=True))
        middle = statistics.median(ratios)
        print(f"  {way:<28} {statistics.median(values):8.3f} s {middle:6.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def gemm(queries, base, rows, columns):
    """Return a call that multiplies queries and base in tiles of one size, each written over the last."""
    tile = np.empty((rows, columns), np.float32)

    def call():
        for i in range(0, len(queries), rows):
            for j in range(0, len(base), columns):
                left, right = queries[i : i + rows], base[j : j + columns]
                np.matmul(left, right.T, out=tile[: len(left), : len(right)])

    return call


def torch_gemm(queries, base, rows):
    left, right = torch.from_numpy(queries), torch.from_numpy(base).T

    def call():
        for part in left.split(rows):
            part @ right

    return call


def brute(queries, base, jobs):
    fitted = NearestNeighbors(n_neighbors=1, algorithm="brute", n_jobs=jobs).fit(base)
    return lambda: fitted.kneighbors(queries)


def cdist(queries, base, rows):
    left, right = torch.from_numpy(queries), torch.from_numpy(base)

    def call():
        for part in left.split(rows):
            torch.cdist(part, right).min(1)

    return call


def search(arguments):
    rng = np.random.default_rng(0)
    for m, n, width in ((1000, 60_000, 784), (50_000, 50_000, 64)):
        m, n = m if m == 1000 else m // arguments.shrink, n // arguments.shrink
        queries, base = (rng.random((size, width), dtype=np.float32) for size in (m, n))
        some = queries[:2000]
        print("finding the best settings")
        tiles = [(500, 2048), (1000, 4096), (1000, n), (m if m * n < 10**8 else 2000, n)]
        product = best([gemm(queries, base, *tile) for tile in tiles] + [torch_gemm(queries, base, 500)])
        jobs = fastest((None, -1), lambda jobs: brute(some, base, jobs))  # noqa: B023
        rows = fastest((50, 250, 1000), lambda rows: cdist(some, base, rows))  # noqa: B023
        ways = {
            "genmem.nearest": lambda queries=queries, base=base: nearest(queries, base),
            "plain GEMM": product,
            "faiss.knn": lambda queries=queries, base=base: faiss.knn(queries, base, 1),
            f"scikit-learn, n_jobs={jobs}": brute(queries, base, jobs),
            f"torch.cdist, {rows} rows": cdist(queries, base, rows),
        }
        print(f"{m:,} queries in {n:,} x {width}, one neighbour")
        nearest(some, base)
        in_turn(ways, arguments.rounds, "genmem.nearest")


def plain_c_t(train, test, samples, n_cells):
    """Return C_T the obvious way: k-means cells, one search a cell, one Mann-Whitney test a cell."""
    cells = KMeans(n_cells, n_init=1, random_state=0).fit(train)
    at = [cells.predict(rows) for rows in (train, test, samples)]
    total = weights = 0.0
    for cell in range(n_cells):
        t, p, q = (rows[labels == cell] for rows, labels in zip((train, test, samples), at, strict=True))
        if len(q) <= 20 or len(p) == 0 or len(t) == 0:
            continue
        near = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(t)
        d_p, d_q = (near.kneighbors(rows)[0][:, 0] for rows in (p, q))
        n, m = len(p), len(q)
        u = mannwhitneyu(d_q, d_p).statistic
        z = (u - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12)
        total, weights = total + n * z, weights + n
    return total / weights


def three_sets(arguments):
    """Return (60,000, 784), (10,000, 784), (10,000, 784): digits, and digits mirrored, or rows of 20 factors."""
    if arguments.mnist:
        with np.load(arguments.mnist) as data:
            train, test = data["x_train"], data["x_test"]
        sets = train, test, train[:10_000, :, ::-1]
    else:
        rng = np.random.default_rng(0)
        mix = rng.normal(size=(20, 784))
        sets = tuple(rng.normal(size=(n, 20)) @ mix + rng.normal(size=(n, 784)) for n in (60_000, 10_000, 10_000))
    return [rows.reshape(len(rows), -1)[:: arguments.shrink].astype(np.float32) for rows in sets]


def copying(arguments):
    from genmem.neighbors.copying import data_copying_test

    train, test, samples = three_sets(arguments)
    ways = {
        "data_copying_test": lambda: data_copying_test(train, test, samples, n_cells=10),
        "straightforward C_T": lambda: plain_c_t(train, test, samples, 10),
    }
    print(f"C_T at {len(train):,} / {len(test):,} / {len(samples):,} x {train.shape[1]}, 10 cells")
    print(f"  {data_copying_test(train, test, samples, n_cells=10).value:.3f} and {ways['straightforward C_T']():.3f}")
    in_turn(ways, arguments.rounds, "data_copying_test")


def copycheck(arguments):
    from genmem.neighbors.copycheck import copycheck

    sets = three_sets(arguments)
    before, profile = peak(), cProfile.Profile()
    start = time.perf_counter()
    profile.enable()
    found = copycheck(*sets)
    profile.disable()
    print(
        f"copycheck: {time.perf_counter() - start:.1f} s, {peak() - before:.0f} MB above {before:.0f}; {found.verdict}"
    )
    pstats.Stats(profile).sort_stats("cumtime").print_stats("genmem", 40)


def memory(arguments):
    rng = np.random.default_rng(0)
    sizes = (60_000 // arguments.shrink, 10_000 // arguments.shrink)
    queries, base = (rng.random((n, 784), dtype=np.float32) for n in sizes)
    nearest(queries[:100], base[:100])
    before = peak()
    nearest(queries, base)
    print(f"{sizes[0]:,} queries in {sizes[1]:,} x 784: {peak() - before:.0f} MB above {before:.0f} MB with the arrays")


def index(arguments):
    from genmem.approximate import nearest_approximately

    rng = np.random.default_rng(0)
    n = 1_000_000 // arguments.shrink
    centres = 3 * rng.normal(size=(n // 100, 64))
    base, queries = (
        (centres[rng.integers(len(centres), size=size)] + rng.normal(size=(size, 64))).astype(np.float32)
        for size in (n, n // 100)
    )
    print(f"{len(queries):,} queries in {n:,} x 64, clustered: exact {timed(lambda: nearest(queries, base)):.1f} s")
    for kind in ("ivf", "hnsw"):
        start = time.perf_counter()
        found = nearest_approximately(queries, base, index=kind)
        low, high = found.interval
        took = time.perf_counter() - start
        print(
            f"  {kind}: {took:.1f} s with the index and its checks, recall {found.recall:.3f} ({low:.3f} to {high:.3f})"
        )


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parts = {part.__name__: part for part in (search, copying, copycheck, memory, index)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--mnist", help="an .npz with x_train and x_test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCK, default="wall", help="cpu: on a busy machine, with one thread only")
    arguments = parser.parse_args()
    global clock
    clock = CLOCK[arguments.clock]
    print(
        f"Python {platform.python_version()}, faiss {faiss.__version__}, scikit-learn {sklearn.__version__}, ", end=""
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    parts[arguments.part](arguments)


if __name__ == "__main__":
    main()
