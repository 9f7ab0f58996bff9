"""Two moons: what C_T, the share nearest to training examples and authenticity say of kernels of every bandwidth.

T has 2,000 points, P 1,000 held out, the samples are 1,000 from a kernel density fitted on T, C_T has 5 cells. The
share takes 2,000 held-out points, the first 1,000 of which are P. All is drawn anew for each seed. Prints means over
the seeds and their spread; fifteen seconds on one core. `--picture FILE.html` draws the figure of docs/two-moons.md.
"""

import numpy as np
from common import machine, options, parse, scratch
from sklearn.datasets import make_moons
from sklearn.neighbors import KernelDensity

from genmem.neighbors.data_copying import data_copying_test
from genmem.neighbors.ratios import authenticity
from genmem.neighbors.sets import Searches
from genmem.neighbors.shares import tail_excess_test, tail_share_test, train_share_test

BANDWIDTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 1.0, 3.0, 10.0)
NAMES = ("C_T", "z", "share nearest to T", "the nearest 5%", "tail excess", "authentic", "held out", "log p")


def draw(seed):
    """Return training and held-out points, (2000, 2) each."""
    return tuple(make_moons(2000, noise=0.2, random_state=2 * seed + i)[0] for i in range(2))


def measure(seed, bandwidth, draws=999):
    """Return what `NAMES` says, (8,)."""
    T, H = draw(seed)
    kernels = KernelDensity(bandwidth=bandwidth).fit(T)
    S = kernels.sample(1000, random_state=seed)
    few, all_ = Searches(T, H[:1000], S), Searches(T, H, S)
    c_t = data_copying_test(T, H[:1000], S, n_cells=5, seed=seed, searches=few)
    shares = [test(T, H, S, draws=draws, searches=all_).value for test in (train_share_test, tail_share_test)]
    excess = tail_excess_test(T, H[:1000], S, searches=few).value
    authentic = authenticity(T, H[:1000], S, searches=few)
    log_p = float(kernels.score_samples(H).mean())
    return np.array([c_t.value, c_t.z, *shares, excess, authentic.value, authentic.null, log_p])


def table(bandwidths, seeds, first=0):
    """Return the measures: (bandwidths, seeds, 8)."""
    return np.array([[measure(first + seed, s) for seed in range(seeds)] for s in bandwidths])


def print_table(bandwidths, seeds):
    print(f"{seeds} seeds: mean (standard deviation over seeds)")
    print("| s | " + " | ".join(NAMES) + " |")
    print("|---" * (1 + len(NAMES)) + "|")
    for s in bandwidths:
        rows = table((s,), seeds)[0]
        each = zip(rows.mean(axis=0), rows.std(axis=0, ddof=1), _DIGITS, strict=True)
        print(f"| {s:g} | " + " | ".join(f"{mean:.{d}f} ({sd:.{d}f})" for mean, sd, d in each) + " |", flush=True)


_DIGITS = (2, 1, 3, 3, 3, 3, 3, 2)


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--picture", help="an .html file")
    parser.set_defaults(bandwidths=BANDWIDTHS, panel=(4, 17))
    given = parse(parser, argv, seeds=2, bandwidths=BANDWIDTHS[::5], panel=(2, 2))
    given.picture = scratch() / "picture.html" if given.smoke else given.picture
    print(machine())
    print_table(given.bandwidths, given.seeds)
    if given.picture:
        write_picture(given.picture, *given.panel)


# --- the figure


def write_picture(path, seeds=4, points=17):
    """Write two panels over bandwidths: C_T, and the shares with their nulls."""
    from plotly.subplots import make_subplots

    s = np.logspace(-3, 1, points)
    found = table(s, seeds)
    best = s[found.mean(axis=1)[:, NAMES.index("log p")].argmax()]
    titles = ["C_T, 5 cells: 0 on fresh samples", "Shares of samples, and what fresh samples give"]
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.08)
    figure.add_traces(band(s, found[..., 0], "C_T", "0,114,178"), rows=1, cols=1)
    for name, colour in (("share nearest to T", "213,94,0"), ("authentic", "0,158,115")):
        figure.add_traces(band(s, found[..., NAMES.index(name)], name, colour), rows=1, cols=2)
    held_out = found[..., NAMES.index("held out")].mean()
    for null, colour, column in ((0, "0,114,178", 1), (0.5, "213,94,0", 2), (held_out, "0,158,115", 2)):
        figure.add_hline(null, line={"color": f"rgba({colour},0.8)", "dash": "dot"}, row=1, col=column)
    figure.add_vline(best, line={"color": "grey", "dash": "dash"}, annotation_text="best held-out log p", col=1)
    figure.add_vline(best, line={"color": "grey", "dash": "dash"}, col=2)
    figure.update_xaxes(type="log", title_text="bandwidth s", dtick=1)
    figure.update_layout(template="plotly_white", width=1200, height=460, margin={"t": 50, "b": 50, "l": 50, "r": 20})
    figure.update_layout(legend={"x": 0.7, "y": 0.97})
    figure.write_html(path, include_plotlyjs=True, config={"displayModeBar": False})


def band(x, values, name, colour):
    """Return the mean over seeds, and one standard deviation to either side."""
    mean, sd = values.mean(axis=1), values.std(axis=1, ddof=1)
    around = {"x": [*x, *x[::-1]], "y": [*(mean - sd), *(mean + sd)[::-1]], "fill": "toself", "mode": "lines"}
    around |= {"fillcolor": f"rgba({colour},0.2)", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    return [
        around | {"type": "scatter"},
        {"type": "scatter", "x": x, "y": mean, "name": name, "line": {"color": f"rgb({colour})"}},
    ]


if __name__ == "__main__":
    main()
