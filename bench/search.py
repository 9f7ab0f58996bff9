"""Nearest neighbours: genmem (FAISS, re-measured in float64) against plain FAISS, scikit-learn and torch.cdist."""

import argparse
import platform
import statistics
import time

import faiss
import numpy as np
import sklearn
import torch
from sklearn.neighbors import NearestNeighbors

from genmem import nearest


def rows(mnist):
    if mnist:
        with np.load(mnist) as data:
            base, queries = data["x_train"].reshape(60000, 784), data["x_test"].reshape(10000, 784)[:1000]
        return base.astype(np.float32), queries.astype(np.float32)
    rng = np.random.default_rng(0)
    return (rng.random((n, 784), dtype=np.float32) for n in (60000, 1000))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", help="an .npz with x_train and x_test")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    base, queries = rows(arguments.mnist)
    brute = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(base)
    base_t, queries_t = torch.from_numpy(base), torch.from_numpy(queries)

    def by_cdist():
        for start in range(0, len(queries), 250):  # whole, the distances take 240 MB; blocks are faster
            torch.cdist(queries_t[start : start + 250], base_t).min(1)

    ways = {
        "genmem.nearest": lambda: nearest(queries, base, 1),
        "faiss.knn": lambda: faiss.knn(queries, base, 1),
        "scikit-learn brute": lambda: brute.kneighbors(queries),
        "torch.cdist, blocks": by_cdist,
    }
    times = {way: [] for way in ways}
    for call in ways.values():
        call()
    for _ in range(arguments.rounds):
        for way, call in ways.items():
            start = time.perf_counter()
            call()
            times[way].append(time.perf_counter() - start)
    print(f"Python {platform.python_version()}, faiss {faiss.__version__}, scikit-learn {sklearn.__version__}")
    print(f"{len(queries)} queries in {len(base)} x {base.shape[1]}")
    for way, values in times.items():
        ratios = sorted(v / g for v, g in zip(values, times["genmem.nearest"], strict=True))
        middle = statistics.median(ratios)
        print(f"  {way:<20} {statistics.median(values):6.3f} s   {middle:5.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
