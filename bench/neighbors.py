"""Searches at audit sizes: genmem against scikit-learn, torch.cdist and a plain GEMM; C_T; the whole check.

    python bench/neighbors.py search                    # 1,000 x 60,000 x 784 and 50,000 x 50,000 x 64
    python bench/neighbors.py copying                   # C_T against the straightforward way
    python bench/neighbors.py copycheck --mnist FILE    # 60,000 / 10,000 / 10,000, seconds and peak memory
    python bench/neighbors.py memory                    # 60,000 x 10,000 x 784 and 2,000 x 1,000,000 x 64
    python bench/neighbors.py index                     # IVF and HNSW: recall, seconds

Every way runs in turn in each round, so a busy machine slows all alike; ratios are of one round. `--shrink 10` divides
the numbers of rows. Peers and the GEMM run at the best of several settings, found before the rounds on 2,000 queries;
all are in float32 with as many threads, and find the nearest row and how far it is.
"""

import cProfile
import pstats
import resource
import time

import common
import faiss
import numpy as np
import sklearn
import torch
from common import add_parts, machine, options, parse, print_times, slower
from scipy.stats import mannwhitneyu
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from genmem.search.exact import nearest

CLOCK = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCK["wall"]


def timed(call):
    start = clock()
    call()
    return clock() - start


def fastest(settings, call_of):
    """Return the setting with which a call is fastest, each tried twice."""
    return min(settings, key=lambda setting: min(timed(call_of(setting)) for _ in range(2)))


def in_turn(title, ways, rounds, unit):
    """Print the median of each way, and of its ratio to the way `unit` within a round."""
    print_times(title, common.in_turn(ways, rounds, timed), unit, slower)


def gemm(queries, base, library, rows, columns):
    """Return a call that multiplies queries and base in float32, in tiles each of which is written over the last."""
    made = {"numpy": np.empty, "torch": torch.empty}[library]
    multiply = {"numpy": np.matmul, "torch": torch.matmul}[library]
    dtype = {"numpy": np.float32, "torch": torch.float32}[library]
    left, right = (queries, base) if library == "numpy" else (torch.from_numpy(queries), torch.from_numpy(base))
    tile = made((rows, columns), dtype=dtype)

    def call():
        for i in range(0, len(left), rows):
            for j in range(0, len(right), columns):
                some, others = left[i : i + rows], right[j : j + columns]
                multiply(some, others.T, out=tile[: len(some), : len(others)])

    return call


def sklearn_nearest(queries, base, algorithm, jobs, fused, megabytes):
    """Return a call of scikit-learn; without `fused` it makes distances in chunks of `megabytes`."""
    fitted = NearestNeighbors(n_neighbors=1, algorithm=algorithm, n_jobs=jobs).fit(base)

    def call():
        with sklearn.config_context(enable_cython_pairwise_dist=fused, working_memory=megabytes):
            fitted.kneighbors(queries)

    return call


def cdist(queries, base, rows, columns):
    """Return a call of torch.cdist in tiles, each reduced to the least distance and its place."""
    left, right = torch.from_numpy(queries), torch.from_numpy(base)

    def call():
        for some in left.split(rows):
            parts = [
                torch.cdist(some, others, compute_mode="use_mm_for_euclid_dist").min(1)
                for others in right.split(columns)
            ]
            torch.stack([part.values for part in parts]).min(0)

    return call


BRUTE = [("brute", jobs, *how) for jobs in (None, -1) for how in ((True, 1024), (False, 64), (False, 1024))]
TREES = [("kd_tree", -1, True, 1024), ("ball_tree", -1, True, 1024)]  # of no use in so many dimensions, but tried


def best_settings(queries, base):
    """Return the settings of GEMM, scikit-learn and cdist that are fastest on some of the queries."""
    n = len(base)
    tiles = [(library, *tile) for library in ("numpy", "torch") for tile in ((500, 2048), (1000, 4096), (500, n))]
    product = fastest(tiles, lambda tile: gemm(queries, base, *tile))
    few = queries[:100]
    kind = fastest([BRUTE[0], *TREES], lambda setting: sklearn_nearest(few, base, *setting))
    theirs = kind if kind in TREES else fastest(BRUTE, lambda setting: sklearn_nearest(queries, base, *setting))
    pieces = [(50, n), (250, n), (1000, n), (250, 4096), (1000, 4096)]
    return product, theirs, fastest(pieces, lambda piece: cdist(queries, base, *piece))


def search(arguments):
    rng = np.random.default_rng(0)
    for m, n, width in ((1000, 60_000, 784), (50_000, 50_000, 64)):
        m, n = m if m == 1000 and not arguments.smoke else m // arguments.shrink, n // arguments.shrink
        queries, base = (rng.random((size, width), dtype=np.float32) for size in (m, n))
        tile, theirs, piece = best_settings(queries[:2000], base)
        ways = {
            "genmem.nearest": lambda queries=queries, base=base: nearest(queries, base),
            f"plain GEMM, {' '.join(map(str, tile))}": gemm(queries, base, *tile),
            "faiss.knn": lambda queries=queries, base=base: faiss.knn(queries, base, 1),
            f"scikit-learn, {' '.join(map(str, theirs))}": sklearn_nearest(queries, base, *theirs),
            f"torch.cdist, {piece[0]} x {piece[1]}": cdist(queries, base, *piece),
        }
        in_turn(f"{m:,} queries in {n:,} x {width}, one neighbour", ways, arguments.rounds, "genmem.nearest")


def plain_c_t(train, test, samples, n_cells):
    """Return C_T the obvious way: k-means cells, one search a cell, one Mann-Whitney test a cell."""
    cells = KMeans(n_cells, n_init=1, random_state=0).fit(train)
    at = [cells.predict(rows) for rows in (train, test, samples)]
    total = weights = 0.0
    for cell in range(n_cells):
        t, p, q = (rows[labels == cell] for rows, labels in zip((train, test, samples), at, strict=True))
        if len(q) <= 20 or len(p) == 0 or len(t) == 0:
            continue
        total, weights = total + len(p) * plain_z(t, p, q), weights + len(p)
    return total / weights


def plain_z(train, test, samples):
    """Return the Mann-Whitney Z of samples' distances to the training examples against held-out rows'."""
    near = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train)
    d_p, d_q = (near.kneighbors(rows)[0][:, 0] for rows in (test, samples))
    n, m = len(test), len(samples)
    return (mannwhitneyu(d_q, d_p).statistic - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12)


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
    from genmem.neighbors.data_copying import data_copying_test, default_cells
    from genmem.neighbors.sets import Searches

    sets = train, test, samples = three_sets(arguments)
    cells = default_cells(*map(len, sets))
    shared = Searches(*sets)
    ours = data_copying_test(*sets, n_cells=cells, searches=shared)
    ways = {
        "data_copying_test": lambda: data_copying_test(*sets, n_cells=cells),
        "the same, searches shared": lambda: data_copying_test(*sets, n_cells=cells, searches=shared),
        "straightforward C_T and Z_U": lambda: (plain_c_t(*sets, cells), plain_z(*sets)),
        "straightforward C_T alone": lambda: plain_c_t(*sets, cells),
    }
    print(f"C_T at {len(train):,} / {len(test):,} / {len(samples):,} x {train.shape[1]}, {cells} cells")
    print(f"  C_T {ours.value:.3f} and {plain_c_t(*sets, cells):.3f}, Z_U {ours.details['z_u']:.3f}")
    in_turn("C_T and Z_U", ways, arguments.rounds, "data_copying_test")


def copycheck(arguments):
    from genmem.neighbors.copycheck import copycheck

    sets = three_sets(arguments)
    before, profile = peak(), cProfile.Profile(time.process_time)
    start, processor = time.perf_counter(), time.process_time()
    found = profile.runcall(copycheck, *sets)
    print(
        f"copycheck at {' / '.join(f'{len(rows):,}' for rows in sets)}: {time.perf_counter() - start:.1f} s, "
        f"{time.process_time() - processor:.1f} s of processor time, {peak() - before:.0f} MB above {before:.0f}; "
        f"{found.verdict}"
    )
    pstats.Stats(profile).sort_stats("cumtime").print_stats("genmem", 30)


def memory(arguments):
    for sizes in ((60_000, 10_000, 784), (2_000, 1_000_000, 64)):
        memory_of(sizes[0] // arguments.shrink, sizes[1] // arguments.shrink, sizes[2])


def memory_of(m, n, width):
    rng = np.random.default_rng(0)
    queries, base = (rng.random((size, width), dtype=np.float32) for size in (m, n))
    nearest(queries[:100], base[:100])
    before = peak()
    took = timed(lambda: nearest(queries, base))
    print(f"{m:,} queries in {n:,} x {width}: {took:.1f} s, {peak() - before:.0f} MB above {before:.0f} with arrays")


def index(arguments):
    from genmem.search.approximate import nearest_approximately

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


def main(argv=None):
    parts = {part.__name__: part for part in (search, copying, copycheck, memory, index)}
    parser = options(__doc__)
    add_parts(parser, parts)
    parser.add_argument("--mnist", help="an .npz with x_train and x_test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCK, default="wall", help="cpu: on a busy machine, with one thread only")
    arguments = parse(parser, argv, rounds=1, shrink=50)
    global clock
    clock = CLOCK[arguments.clock]
    print(machine("faiss-cpu", "scikit-learn"))
    for part in arguments.parts or parts:
        parts[part](arguments)


if __name__ == "__main__":
    main()
