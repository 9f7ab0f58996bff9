"""Six clusters of points: whom three densities find influential. Ten seconds on one core.

Draws clusters of 25, 15, 20, 25, 10 and 5 points in the plane, computes self-influence for k-NN (k = 10), kernels of
bandwidth 1 and a mixture of six spherical Gaussians, and prints its mean in each cluster over the draws, with the
spread. `--picture FILE.html` writes the figure of docs/closed-form-influence.md for the first draw.
"""

import math

import numpy as np
from common import machine, options, parse, require, scratch
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from genmem import KNNDensity, influence_scores, self_influence

SIZES = (25, 15, 20, 25, 10, 5)
MEANS = np.array([(5, 8), (-5, 8), (-10, 0), (-5, -8), (5, -8), (10, 0)])
DEVIATIONS = np.array([0.5, 0.5, 0.4, 0.4, 0.5, 1.0])
CLUSTER = np.repeat(np.arange(6), SIZES)
KNN, KERNELS = KNNDensity(k=10), KernelDensity(bandwidth=1.0)
NAMES = ("k-NN, k = 10", "kernels, s = 1", "mixture of six")


def draw(seed):
    """Return the points of one draw: (100, 2)."""
    rng = np.random.default_rng(seed)
    return MEANS[CLUSTER] + DEVIATIONS[CLUSTER, None] * rng.normal(size=(len(CLUSTER), 2))


def own_influence(X):
    """Return the self-influence of the points under the three densities: (3, 100)."""
    mixture = spherical_mixture_influence(X, CLUSTER, X, CLUSTER).diagonal()
    return np.stack([self_influence(KNN, X), self_influence(KERNELS, X), mixture])


def cluster_means(draws, first=0):
    """Return the mean self-influence of each cluster in each draw: (draws, 3, 6)."""
    found = np.stack([own_influence(draw(seed)) for seed in range(first, first + draws)])
    return np.stack([found[:, :, CLUSTER == c].mean(axis=2) for c in range(6)], axis=2)


def fitted_mixture():
    """Return a mixture of six spherical Gaussians, started at the clusters."""
    return GaussianMixture(6, covariance_type="spherical", reg_covar=0, means_init=MEANS, random_state=0)


def print_table(means):
    print("mean self-influence in clusters of " + ", ".join(map(str, SIZES)) + " points, nats (sd over draws)")
    for name, values in zip(NAMES, means.transpose(1, 0, 2), strict=True):
        cells = [f"{m:6.3f} ({s:.3f})" for m, s in zip(values.mean(axis=0), values.std(axis=0, ddof=1), strict=True)]
        print(f"{name:15}", *cells)
    error = (means.std(axis=0, ddof=1) / len(means) ** 0.5).max()
    print(f"{len(means)} draws; the largest standard error of a mean is {error:.3f}")


def print_checks(draws):
    X = draw(0)
    gap = np.abs(self_influence(fitted_mixture(), X) - own_influence(X)[2]).max()
    require(gap < 1e-3, f"EM refits and the closed form differ by {gap:.1e} nats")
    print(f"first draw: self-influence by EM refits and by the closed form differ by at most {gap:.1e} nats")
    ranks = []
    for seed in range(draws):
        X = draw(seed)
        centre = np.stack([X[CLUSTER == c].mean(axis=0) for c in range(6)])
        distance, own = np.linalg.norm(X - centre[CLUSTER], axis=1), own_influence(X)[2]
        ranks += [spearmanr(distance[CLUSTER == c], own[CLUSTER == c])[0] for c in range(6)]
    print(f"mixture: rank correlation of self-influence with distance from the centre, mean {np.mean(ranks):.3f}")


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--picture", help="an .html file")
    given = parse(parser, argv, draws=3)
    given.picture = scratch() / "picture.html" if given.smoke else given.picture
    print(machine())
    print_table(cluster_means(given.draws))
    print_checks(min(given.draws, 20))
    if given.picture:
        write_picture(given.picture)


# --- spherical components so far apart that assignments never change


def spherical_mixture_influence(X, own, Z, asked):
    """Return the influence of each example on a mixture of spherical Gaussians with fixed assignments: (n, m), nats.

    A component of n examples has weight n / N, their mean mu, and variance s^2 = sum |x - mu|^2 / (n d). With
    u = z - mu, v = x_i - mu, `rho = n/(n-1) - n |v|^2 / ((n-1)^2 d s^2)` (what s^2 is multiplied by) and
    `m2 = |u|^2 + 2 u.v/(n-1) + |v|^2/(n-1)^2` (|u|^2 afterwards), the influence within a component is
    `log((N-1)/N) - log((n-1)/n) + (d/2) log rho + m2 / (2 s^2 rho) - |u|^2 / (2 s^2)`, across components
    `log((N-1)/N)`.

    Args:
        X: (n, d) examples, three or more of a component, which differ.
        own: (n,) the component of each, integers from 0 without gaps.
        Z: (m, d) queries.
        asked: (m,) the component of each.
    """
    total, d = X.shape
    scores = np.full((total, len(Z)), math.log((total - 1) / total))
    for mine, others, v, u, variance in components(X, own, Z, asked):
        n = len(mine)
        rho = (n / (n - 1) - n * np.square(v).sum(axis=1) / ((n - 1) ** 2 * d * variance))[:, None]
        moved = cdist(-v / (n - 1), u, "sqeuclidean")
        exponent = (moved / rho - np.square(u).sum(axis=1)) / (2 * variance)
        scores[np.ix_(mine, others)] += exponent + d / 2 * np.log(rho) - math.log((n - 1) / n)
    return scores


def spherical_mixture_first_order(X, own, Z, asked):
    """Return `spherical_mixture_influence` to first order in 1/n, as published: (n, m), nats.

    `(d+2)/(2n) - 1/N + (|v|^2 |u|^2 / (d s^2) - |z - x_i|^2) / (2 n s^2)` within a component, -1/N across (Kong &
    Chaudhuri, 2021, https://arxiv.org/abs/2105.14203).
    """
    total, d = X.shape
    scores = np.full((total, len(Z)), -1 / total)
    for mine, others, v, u, variance in components(X, own, Z, asked):
        squares = np.outer(np.square(v).sum(axis=1), np.square(u).sum(axis=1))
        away = squares / (d * variance) - cdist(X[mine], Z[others], "sqeuclidean")
        scores[np.ix_(mine, others)] += (d + 2) / (2 * len(mine)) + away / (2 * len(mine) * variance)
    return scores


def components(X, own, Z, asked):
    """Yield rows and queries of each component, as positions and as offsets from its mean, and its variance."""
    for c in range(own.max() + 1):
        mine, others = np.flatnonzero(own == c), np.flatnonzero(asked == c)
        v, u = (part - X[mine].mean(axis=0) for part in (X[mine], Z[others]))
        yield mine, others, v, u, np.square(v).mean()


# --- the figure


QUERY = 27  # of the second cluster
NEAR_QUERY = {"x": [-7.0, -3.2], "y": [6.4, 9.6]}


def write_picture(path):
    from plotly.subplots import make_subplots

    X = draw(0)
    mixture = spherical_mixture_influence(X, CLUSTER, X, CLUSTER)
    on_query = [influence_scores(model, X, X)[:, QUERY] for model in (KNN, KERNELS)] + [mixture[:, QUERY]]
    titles = [f"{name}: self-influence" for name in NAMES] + [f"{name}: influence on the star" for name in NAMES]
    figure = make_subplots(2, 3, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.1)
    for column, (own, other) in enumerate(zip(own_influence(X), on_query, strict=True), start=1):
        figure.add_trace(points(X, own, (min(0, own.min()), own.max()), "Viridis_r", 1, column), 1, column)
        figure.add_trace(points(X, other, (-abs(other).max(), abs(other).max()), "RdBu", 2, column), 2, column)
        figure.add_trace(star(X[QUERY]), 2, column)
    figure.update_xaxes(range=[-13, 14], row=1).update_yaxes(range=[-11, 11], row=1)
    figure.update_xaxes(range=NEAR_QUERY["x"], row=2).update_yaxes(range=NEAR_QUERY["y"], row=2)
    figure.update_layout(template="plotly_white", showlegend=False, width=1320, height=860, margin={"t": 50, "b": 30})
    figure.write_html(path, include_plotlyjs=True, config={"displayModeBar": False})


def points(X, values, limits, scale, row, column):
    bar = {"len": 0.42, "y": 1.35 - 0.565 * row, "x": 0.365 * column - 0.09, "thickness": 10, "title": "nats"}
    marker = {"color": values, "cmin": limits[0], "cmax": limits[1], "colorscale": scale, "colorbar": bar}
    marker |= {"size": 8 if row == 1 else 11, "line": {"color": "grey", "width": 0.5}}
    return {"type": "scatter", "x": X[:, 0], "y": X[:, 1], "mode": "markers", "marker": marker}


def star(at):
    look = {"symbol": "star", "size": 17, "color": "gold", "line": {"color": "black", "width": 1}}
    return {"type": "scatter", "x": at[:1], "y": at[1:], "mode": "markers", "marker": look}


if __name__ == "__main__":
    main()
