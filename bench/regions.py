"""Where is more data needed? Thin one class of digits to 6% and see whether the score names it.

For each trial: mean memorization score by label, the thinned class and the runner-up, beside the mean distance to the
fifth nearest neighbour. About a minute and a half a trial on 2 cores; `runs/thinned-*` resume.
"""

from pathlib import Path

import numpy as np
from common import machine, options, parse, scratch

import genmem
from genmem.run.directory import Run


def trial(thin, out, examples, epochs, repeats):
    data = genmem.load("digits", subset=examples)
    members = np.flatnonzero(data.labels == thin)
    few = np.random.default_rng(thin).permutation(members)[: round(0.06 * len(members))]
    keep = np.setdiff1d(np.arange(len(data.X)), np.setdiff1d(members, few))
    model = genmem.VAE(hidden=(128, 64), latent_dim=8, epochs=epochs)
    found = genmem.audit(
        data.X[keep],
        model,
        out=out,
        labels=data.labels[keep],
        folds=5,
        repeats=repeats,
        seed=thin,
        score_epochs=(epochs,),
    )
    labels, distance = data.labels[keep], Run.open(found.path).result("neighbors")["distance"]
    first, second = [g for g in found.summary["groups"] if g["kind"] == "label"][:2]
    far = {c: distance[labels == c].mean() for c in np.unique(labels)}
    others = max(value for c, value in far.items() if c != thin)
    low, high = first["interval"]
    print(
        f"thinned {thin} to {len(few)}: highest label {first['name']}, {first['mean']:.1f} nats "
        f"({low:.1f} to {high:.1f}); next {second['name']}, {second['mean']:.1f}; "
        f"5-NN distance {far[thin]:.2f} against at most {others:.2f} elsewhere",
        flush=True,
    )
    return first["name"] == str(thin)


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 4, 7])
    parser.set_defaults(out=Path("runs"), examples=None, epochs=200, repeats=8)
    given = parse(parser, argv, classes=[1], examples=500, epochs=2, repeats=1)
    out = scratch() if given.smoke else given.out
    print(machine())
    named = sum(
        trial(thin, out / f"thinned-{thin}", given.examples, given.epochs, given.repeats) for thin in given.classes
    )
    print(f"the thinned class ranked first in {named} of {len(given.classes)} trials")


if __name__ == "__main__":
    main()
