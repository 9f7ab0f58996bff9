"""Is memorization local in units of a VAE, and does the method find units that are known to hold it?

Parts, on the digits (8 x 8, 1,797 images) and decoders of 64-128 hidden units:

- `locality`: `genmem neurons` on a run, 16 networks on halves: the verdict with all its comparisons. `--model`,
  `--hidden` and `--duplicates` test other networks and data (`tied` is of a `vae`).
- `injection`: known units of trained networks learn one example each; recall of these units among the top 5% for
  every score: of the network alone, and of the difference to the network before; and by what each unit holds.
- `tied`: example-tied dropout in the decoder's last hidden layer, 64 units for all examples and 64 memory units, of
  which each example trains its own 15%; recall of the memory units, and what they carry.

Results are in docs/findings.md.
"""

import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import add_parts, machine, options, parse
from torch import nn

from genmem import leaveout, stages
from genmem.data import Data, load, plant_duplicates
from genmem.findings.neurons import described
from genmem.leaveout import planned_model
from genmem.leaveout.refitting import make_task
from genmem.models import VAE, ConvVAE, DiffusionModel, Flow
from genmem.models.evaluation import log_prob
from genmem.neurons import SCORERS, Sets, contrast, coverage_of, drops, inject, paired_search, units_of
from genmem.neurons import injection as injections
from genmem.neurons.contrast import per_damage, strongest
from genmem.neurons.examples import means_without
from genmem.neurons.injection import recall_of
from genmem.neurons.localize import Design, conclude, measure
from genmem.run.plan import MATCHES
from genmem.run.splits import Splits
from genmem.seeding import stream
from genmem.stages._neurons import POSTERIORS, network_of
from genmem.stats import mean_interval
from genmem.training.ensemble import fresh_module

LATENT = 8
COPIES = 4  # of each duplicated example, besides the original
SHARE = 0.15
HELD = ((-np.inf, 10), (10, 20), (20, 40), (40, np.inf))  # nats that an injected unit holds
PENALTIES = (1.0, 10.0)  # nats that a replaced unit costs a mask


def vae(asked):
    return VAE(hidden=list(asked.hidden), latent_dim=LATENT, likelihood="gaussian", epochs=asked.epochs, device="cpu")


def conv(asked):
    """Return a convolutional VAE; its first stage has as many channels as `--hidden` says first."""
    width = asked.hidden[0]
    return ConvVAE(width=width, latent_dim=LATENT, likelihood="gaussian", epochs=asked.epochs, device="cpu")


def flow(asked):
    return Flow(kind="affine", transforms=2, hidden=list(asked.hidden), epochs=asked.epochs, device="cpu")


def diffusion(asked):
    """Return a diffusion model of vectors, with residual layers as `--hidden` says, all as wide as the first."""
    return DiffusionModel(width=asked.hidden[0], depth=len(asked.hidden), epochs=asked.epochs, device="cpu")


MODELS = {"vae": vae, "conv": conv, "flow": flow, "diffusion": diffusion}


def images(asked):
    """Return the first so many digits, or images of a file with MNIST, with values from 0 to 1: (n, pixels)."""
    if not asked.data:
        return np.array(load("digits").X[: asked.n], np.float32)
    with np.load(asked.data) as data:
        return data["x_train"][: asked.n].reshape(asked.n, -1).astype(np.float32) / 255


def as_images(X, asked):
    """Return flat images, or square ones for a convolutional model."""
    side = math.isqrt(X.shape[1])
    return X.reshape(-1, side, side) if asked.model == "conv" else X


def told(values, digits=1):
    mean, _, (low, high) = mean_interval(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


# --- locality


def examples(asked):
    """Return the images, and the group of each; with `--duplicates`, some of them are there `COPIES` times more."""
    X = as_images(images(asked), asked)
    if not asked.duplicates:
        return X, None
    data = Data(X, None, np.arange(len(X)), "array")
    more, groups = plant_duplicates(data, duplicated(asked), COPIES)
    return more.X, groups


def duplicated(asked):
    return np.random.default_rng(0).permutation(asked.n)[: asked.duplicates]


def of_duplicates(run, asked, how):
    """Run the test with the duplicated examples as the memorized ones.

    One of each set of duplicates is judged, because copies of an example must not both choose and judge units. Of the
    other examples only the half with the lowest scores is there: outliers score higher than duplicates.
    """
    splits, module = run.splits(), fresh_module(make_task(run, planned_model(run, None)).recipe(), 0)
    log_probs, held_out = run.log_probs().astype(float), splits.held_out
    score, twice = means_without(log_probs, held_out, splits.repeat, -1).score[: asked.n], duplicated(asked)
    others = np.setdiff1d(np.arange(asked.n), twice)
    rows = np.union1d(twice, others[score[others] <= np.median(score[others])])
    design = Design(np.asarray(run.data().X)[rows], log_probs[:, rows], held_out[:, rows], splits.repeat)
    how = {**how, "share": len(twice) / len(rows)}
    most = rows[np.argsort(-score[rows], kind="stable")[: len(twice)]]
    print(f"{np.isin(most, twice).mean():.0%} of the {len(twice)} memorized among {len(rows)} examples have duplicates")
    given = {name: how[name] for name in ("share", "posterior")}
    measured = [measure(network_of(run, module, row), design, row, **given) for row in range(len(design.repeat))]
    verdict = conclude(measured, design, **{name: how[name] for name in ("share", "permutations", "splits")})
    paired = paired_search([m.evidence for m in measured], [m.positions for m in measured], score[rows])
    return described(verdict, measured, paired, how, str(coverage_of(module)), len(measured))


def locality(asked):
    """Train on halves, run the test, and print every comparison against every baseline."""
    X, groups = examples(asked)
    with tempfile.TemporaryDirectory() as folder:
        design = {"fraction": 0.5, "repeats": asked.repeats, "groups": groups, "match": asked.match}
        out = Path(asked.out or folder) / "digits"
        run = stages.plan(X, MODELS[asked.model](asked), out, keep_weights=True, seed=asked.seed, **design)
        leaveout.refit(run, workers=1)
        how = {name: getattr(asked, name) for name in ("repeats", "permutations", "share", "splits", "posterior")}
        about = of_duplicates(run, asked, how) if asked.duplicates else stages.neurons(run, **how)
    print(about["sentence"])
    for control in about["controls"]:
        print(f"  {'passed' if control['passed'] else 'FAILED'}: {control['sentence']}")
    print(f"  detectable: {about['detectable']}")
    print(f"  exchange within pairs: p = {about['permutation_p']:.3f}; void: {about['void']}")
    print(f"  joint ablations: {about['confirmed']}\n  greedy search: {about['search']}")
    for one in about["comparisons"]:
        overlap = about["overlap"].get(one["name"])
        print(f"\n{one['name']}: {one['pairs']:.0f} pairs, overlap {overlap}, split-half {one['split_half']:.2f}")
        for baseline, found in one["baselines"].items():
            effects = zip(one["sizes"], found["mean"], found["interval"], strict=True)
            cells = [f"{size}: {mean:.1f} ({low:.1f} to {high:.1f})" for size, mean, (low, high) in effects]
            print(f"  {baseline:<10}", *cells, f"p = {min(found['p_value']):.3f}")


# --- injection


def injection(asked):
    """Print the recall of injected units for every score, judged with and without the network before."""
    X = images(asked)
    splits = Splits.subsets(len(X), 0.5, 2 * asked.networks)
    found = {planted: {} for planted in asked.planted}
    for number in range(asked.networks):
        held_out = splits.held_out[2 * number]
        model = MODELS[asked.model](asked).fit(as_images(X[~held_out], asked))
        _inject_some(model, as_images(X, asked), held_out, number, asked, found)
    for planted, scores in found.items():
        gains, held = scores.pop("gain", []), np.concatenate(scores.pop("held", [[]]))
        print(f"\n{planted} units, {len(gains)} injections, gain {told(gains, 0)} nats; recall in the top 5%")
        counts = [f"{low:g} to {high:g} nats: {((low <= held) & (held < high)).sum()}" for low, high in HELD]
        print(f"  units that hold {', '.join(counts)}")
        for name, values in scores.items():
            each = np.concatenate(values)
            by_held = [each[(low <= held) & (held < high)] for low, high in HELD]
            cells = [f"{some.mean():.2f}" if len(some) else "-" for some in by_held]
            print(f"  {name:<38} {told([one.mean() for one in values], 2):<22} by what they hold:", *cells)


def _inject_some(model, X, held_out, number, asked, found):
    units, rng = units_of(model), np.random.default_rng(number)
    how = {"reference": X[~held_out]}
    outside = np.flatnonzero(held_out)
    outside = outside[np.argsort(model.score_samples(X[outside]))]
    damage = drops(model, X[rng.choice(outside, min(64, len(outside)), replace=False)], **how).values.mean(0)
    for planted in asked.planted:
        for at, example in enumerate(outside[: asked.injections]):
            settings = {"planted": planted, "gain": asked.gain, "seed": 100 * number + at}
            done = inject(model, X[example], units, damage, **settings, **how)
            if np.isfinite(done.recall):
                _score_it(model, X[example][None], done, units, damage, how, asked, found[planted])


def _score_it(model, one, done, units, damage, how, asked, scores):
    taught = done.network
    after, before = (drops(which, one, units, **how).values[0] for which in (taught, model.module_))
    rows = {
        "ablation - before, per damage": per_damage(after - before, damage),
        "ablation - before": after - before,
        "ablation, per damage": per_damage(after, damage),
        "ablation": after,
    }
    for name, scorer, more in _scorers(asked):
        settings = {"posterior": "fixed", **how} if name in ("first_order", "activation_norm") else how
        new, old = (np.ravel(scorer(which, one, units, **settings, **more)) for which in (taught, model.module_))
        rows |= {name: new} if name == "random" else {name: new, f"{name} - before": new - old}
    for name, score in rows.items():
        found = [recall_of(score, units, [unit]) for unit in done.units]  # 5% are more units than were injected
        scores.setdefault(name, []).append(np.array(found))
    scores.setdefault("gain", []).append(done.gain)
    scores.setdefault("held", []).append(done.held)


def _scorers(asked):
    """Yield the cheap scores: name, function, settings; the masks with two prices of a replaced unit."""
    for name, scorer in SCORERS.items():
        if name != "hard_concrete":
            yield name, scorer, {}
            continue
        for penalty in PENALTIES:
            yield f"{name}, {penalty:g} nats", scorer, {"mask_steps": asked.mask_steps, "penalty": penalty}


# --- example-tied dropout


class Tied(nn.Module):
    """Multiplies the last units by the mask of each example in training, by its mean otherwise.

    References:
        Can Neural Network Memorization Be Localized? (Maini et al., 2023), https://arxiv.org/abs/2307.09542
    """

    def __init__(self, memory, n, seed):
        super().__init__()
        self.memory, self.rows = memory, None
        self.masks = torch.from_numpy((stream(seed, "tied").random((n, memory)) < SHARE).astype(np.float32))

    def forward(self, h):
        shared, memory = h[..., : -self.memory], h[..., -self.memory :]
        return torch.cat([shared, memory * (SHARE if self.rows is None else self.masks[self.rows])], -1)


def train_tied(X, keep, asked, seed):
    """Return a network whose memory units are trained by their own examples only."""
    torch.manual_seed(seed)
    module = vae(asked).resolve(X).make_module(X.shape[1:])
    layers = list(module.decoder)
    tied = Tied(asked.memory, len(X), seed)
    module.decoder = nn.Sequential(*layers[:-1], tied, layers[-1])
    optimizer, x, rng = torch.optim.Adam(module.parameters(), lr=1e-3), torch.from_numpy(X), np.random.default_rng(seed)
    for _ in range(asked.epochs):
        order = rng.permutation(keep)
        for start in range(0, len(order) - 63, 64):
            tied.rows = torch.from_numpy(order[start : start + 64])
            optimizer.zero_grad()
            module(x[tied.rows]).mean().backward()
            optimizer.step()
    tied.rows = None
    return module.eval()


def tied(asked):
    """Print the share of memory units among the best, what they carry, and the verdict's numbers."""
    X = images(asked)
    splits = Splits.subsets(len(X), 0.5, 2 * asked.repeats)
    modules = [train_tied(X, np.flatnonzero(~out), asked, number) for number, out in enumerate(splits.held_out)]
    log_probs = np.stack([log_prob(m, torch.from_numpy(X), draws=64, seed=0).log_prob for m in modules])
    design = Design(X, log_probs, splits.held_out, splits.repeat)
    last = [name for name, part in modules[0].named_modules() if isinstance(part, nn.Linear)][-2]
    units = [unit for unit in units_of(modules[0]) if unit.layer == last]
    known = np.array([unit.index >= len(units) - asked.memory for unit in units])
    shares, carried = {}, []
    for number, module in enumerate(modules):
        evidence = measure(module, design, number, share=asked.share, injection=False, units=units).evidence
        sets = Sets(*evidence.pairs["out"].T, evidence.damage[0])
        for score in ("per_damage", "raw"):
            values = contrast(evidence.drops, sets, score)
            for size in asked.tops:
                shares.setdefault((score, size), []).append(known[strongest(values, size)].mean())
        sides = [evidence.drops[rows][:, known].sum(1).mean() for rows in evidence.pairs["out"].T]
        carried.append([*sides, sides[0] - sides[1]])
    carried = np.array(carried).reshape(asked.repeats, 2, 3).mean(1)
    print(f"memorization of the chosen examples: {told(design.memorization(asked.share, 0))} nats")
    for at, name in enumerate(("trained on", "held out", "difference")):
        print(f"memory units carry, {name}: {told(carried[:, at])} nats")
    for (score, size), values in shares.items():
        print(f"share of memory units in the top {size}, {score}: {told(values, 2)}")


PARTS = {"locality": locality, "injection": injection, "tied": tied}


def main(argv=None):
    parser = options(__doc__)
    add_parts(parser, PARTS)
    parser.add_argument("--out", help="a folder for the run of `locality`, which then resumes")
    parser.add_argument("--match", choices=MATCHES, help="what networks on halves share with one on all examples")
    parser.add_argument("--model", choices=MODELS, help="of `locality` and `injection`")
    parser.add_argument("--hidden", type=int, nargs="+", help="units of the hidden layers")
    parser.add_argument("--duplicates", type=int, help=f"so many digits are there {COPIES} times more, for `locality`")
    parser.add_argument("--data", help="an .npz file with MNIST, whose first images take the place of the digits")
    parser.add_argument("--seed", type=int, help="of the halves and the networks of `locality`")
    parser.add_argument("--posterior", choices=POSTERIORS, help="q while units are ablated, for `locality`")
    parser.add_argument("--n", type=int, help="images")
    parser.add_argument("--epochs", type=int)
    parser.set_defaults(
        match="steps", model="vae", duplicates=0, seed=0, posterior="refit", n=1797, hidden=(128, 64), epochs=300,
        repeats=8, permutations=99, splits=40, share=0.05, networks=8, injections=3, mask_steps=400, planted=(2, 10),
        gain=40.0, memory=64, tops=(6, 13, 26),
    )  # fmt: skip
    tiny = {
        "n": 80, "hidden": (8, 6), "epochs": 2, "permutations": 3, "splits": 4, "share": 0.2, "networks": 1,
        "planted": (2,), "gain": -1000.0, "memory": 4, "tops": (2,), "mask_steps": 5,
    }  # fmt: skip
    asked = parse(parser, argv, **tiny)
    torch.set_num_threads(1)
    if asked.smoke:
        injections.STEPS = 10  # networks of two epochs hardly learn anything; any gain counts
    print(machine())
    for part in asked.parts or PARTS:
        start = time.process_time()
        print(f"\n== {part}", flush=True)
        PARTS[part](asked)
        print(f"({time.process_time() - start:.0f} CPU s in this process)", flush=True)


if __name__ == "__main__":
    main()
