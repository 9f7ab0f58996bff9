"""Nearest neighbours: genmem (FAISS, re-measured in float64) against plain FAISS, scikit-learn and torch.cdist."""

import faiss
import numpy as np
import torch
from common import in_turn, machine, options, parse, print_times, require, slower
from sklearn.neighbors import NearestNeighbors

from genmem import nearest


def rows(mnist, n, m):
    if mnist:
        with np.load(mnist) as data:
            base, queries = data["x_train"].reshape(-1, 784)[:n], data["x_test"].reshape(-1, 784)[:m]
        return base.astype(np.float32), queries.astype(np.float32)
    rng = np.random.default_rng(0)
    return [rng.random((size, 784), dtype=np.float32) for size in (n, m)]


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--mnist", help="an .npz with x_train and x_test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=1000)
    arguments = parse(parser, argv, rounds=1, rows=3000, queries=300)
    base, queries = rows(arguments.mnist, arguments.rows, arguments.queries)
    brute = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(base)
    base_t, queries_t = torch.from_numpy(base), torch.from_numpy(queries)

    def by_cdist():
        # Whole, the distances take 240 MB; blocks are faster.
        return torch.cat([torch.cdist(part, base_t).min(1).values for part in queries_t.split(250)])

    ways = {
        "genmem.nearest": lambda: nearest(queries, base, 1),
        "faiss.knn": lambda: faiss.knn(queries, base, 1),
        "scikit-learn brute": lambda: brute.kneighbors(queries),
        "torch.cdist, blocks": by_cdist,
    }
    ours, _, brute_force, tiled = (call() for call in ways.values())
    for name, theirs in (("scikit-learn", brute_force[0][:, 0]), ("torch.cdist", tiled.numpy())):
        require(np.allclose(theirs, ours[0][:, 0], rtol=1e-3), f"{name} finds other distances")
    print(machine("faiss-cpu", "scikit-learn"))
    times = in_turn(ways, arguments.rounds)
    print_times(f"{len(queries)} queries in {len(base)} x {base.shape[1]}", times, "genmem.nearest", slower)


if __name__ == "__main__":
    main()
