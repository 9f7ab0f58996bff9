"""Mixed tables: what the scale of numbers does to the detection of copies (docs/spaces.md).

A made-up table of people: 6 columns of numbers (two with heavy tails, two mostly 0) and 8 of categories, all tied to a
hidden group. Samples are training rows altered in one way; the share nearest to the training set is 1 where they are
recognised and .5 where they are not. "raw": numbers as they are, categories one-hot.
"""

import numpy as np
from common import machine, options, parse

from genmem.data.encoding import mixed_space
from genmem.neighbors.sets import Searches

NUMBERS = ("age", "hours", "income", "wealth", "gain", "loss")
CATEGORIES = {"work": 8, "school": 16, "status": 7, "job": 14, "role": 6, "origin": 5, "sex": 2, "country": 40}


def people(n, rng, groups=12):
    """Return a table of n rows; the same groups for every table."""
    fixed = np.random.default_rng(0)
    tastes = {name: fixed.dirichlet(np.full(size, 0.4), groups) for name, size in CATEGORIES.items()}
    centre = fixed.normal(size=(groups, 4))
    group = rng.integers(groups, size=n)
    normal = centre[group] + rng.normal(size=(n, 4))
    return {
        "age": np.clip(np.round(45 + 10 * normal[:, 0]), 17, 90),
        "hours": np.clip(np.round(40 + 8 * normal[:, 1]), 1, 99),
        "income": np.round(np.exp(10 + 0.6 * normal[:, 2])),
        "wealth": np.round(np.exp(8 + 1.5 * normal[:, 3])),
        "gain": np.where(rng.random(n) < 0.92, 0.0, np.round(np.exp(8 + rng.normal(size=n)))),
        "loss": np.where(rng.random(n) < 0.95, 0.0, np.round(1800 + 300 * rng.normal(size=n))),
        **{
            name: np.array([f"{name} {value}" for value in (rng.random(n)[:, None] > p[group].cumsum(1)).sum(1)])
            for name, p in tastes.items()
        },
    }


def take(table, at):
    return {name: values[at] for name, values in table.items()}


def altered(table, rng, change):
    """Return a copy of a table with some values changed."""
    n, table = len(table["age"]), dict(table)
    other = people(n, rng)
    if change == "numbers by a tenth of their quartile distance":
        for name in NUMBERS:
            width = np.subtract(*np.quantile(table[name], [0.75, 0.25]))
            table[name] = table[name] + 0.1 * width * rng.normal(size=n)
    elif change == "all categories replaced":
        table |= {name: other[name] for name in CATEGORIES}
    elif change.endswith("categories replaced"):
        table |= {name: other[name] for name in list(CATEGORIES)[: int(change.split()[0])]}
    elif change == "income and wealth replaced":
        table |= {name: other[name] for name in ("income", "wealth")}
    elif change == "all numbers replaced":
        table |= {name: other[name] for name in NUMBERS}
    return table


CHANGES = (
    "copied",
    "numbers by a tenth of their quartile distance",
    "2 categories replaced",
    "4 categories replaced",
    "all categories replaced",
    "income and wealth replaced",
    "all numbers replaced",
)


def unscaled(*tables):
    """Return numbers as they are beside one-hot categories."""
    categories = mixed_space(*({name: table[name] for name in CATEGORIES} for table in tables))[0]
    numbers = [np.column_stack([table[name] for name in NUMBERS]) for table in tables]
    return [np.hstack([a, b]) for a, b in zip(numbers, categories, strict=True)]


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    arguments = parse(parser, argv, rows=200)
    print(machine())
    rng = np.random.default_rng(1)
    train, test, fresh = (people(arguments.rows, rng) for _ in range(3))
    spaces = {
        "raw": lambda *tables: unscaled(*tables),
        "range": lambda *tables: mixed_space(*tables, scale="range")[0],
        "spread": lambda *tables: mixed_space(*tables, scale="spread")[0],
    }
    print("| samples | " + " | ".join(spaces) + " |\n|---|" + "---|" * len(spaces))
    for change in ("fresh", *CHANGES):
        at = rng.permutation(arguments.rows)[: arguments.rows // 2]
        samples = fresh if change == "fresh" else altered(take(train, at), rng, change)
        shares = []
        for space in spaces.values():
            searches = Searches(*space(train, test, samples))
            shares.append(np.mean(searches.distance("samples", "train") < searches.distance("samples", "test")))
        print(f"| {change} | " + " | ".join(f"{share:.2f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
