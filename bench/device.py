"""What a GPU is worth: lanes, 100 models of the MNIST study, influence, exact search. Run by `bench/device.sh`.

    python bench/device.py lanes                # a part; all without one
    python bench/device.py --smoke              # all of it at tiny sizes on the CPU

Each part measures genmem and the straightforward way on the same device, in turn, checks that they agree, and ends with
lines for `bench/RESULTS.md`, which are also appended to lines.md under --out. MNIST is --mnist, $MNIST,
data/mnist/mnist.npz or mnist.npz; without it the images are enlarged digits, moved about, and the lines say so.
"""

import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from common import (
    ROOT,
    add_parts,
    enlarged_digits,
    faster,
    in_turn,
    machine,
    options,
    parse,
    print_times,
    require,
    scratch,
    seconds,
    spread,
)
from influence import TASKS, TINY, USUAL, Setting, by_genmem, by_loop
from influence_study import main as influence_study
from sklearn.datasets import load_digits
from training import straightforward_log_prob, straightforward_training

from genmem import stages
from genmem.models import VAE
from genmem.search.exact import nearest
from genmem.training import Lane, train

# --- images


def found_mnist(path):
    """Return the path of MNIST's .npz file, or None."""
    places = [path, os.environ.get("MNIST"), ROOT / "data" / "mnist" / "mnist.npz", ROOT / "mnist.npz"]
    return next((str(place) for place in places if place and Path(place).exists()), None)


def images_of(asked):
    """Return training and test images, uint8 (n, 28, 28), their labels, and what they are called."""
    if path := found_mnist(asked.mnist):
        with np.load(path) as data:
            return data["x_train"], data["x_test"], data["y_train"], "MNIST"
    digits, target = enlarged_digits()
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(digits), size=asked.rows + asked.queries)
    moved = [np.roll(digits[i], rng.integers(-3, 4, size=2), (0, 1)) for i in chosen]
    noisy = np.clip(np.array(moved) + rng.integers(0, 25, (len(moved), 28, 28)), 0, 255).astype(np.uint8)
    return noisy[: asked.rows], noisy[asked.rows :], target[chosen[: asked.rows]], "made-up images like MNIST's"


def binarised(images, seed=0):
    flat = images.reshape(len(images), -1)
    return (np.random.default_rng(seed).random(flat.shape) < flat / 255).astype(np.uint8)


# --- clocks and lines


def wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def clock(device):
    """Return a clock that waits for the device."""

    def timed(call):
        wait(device)
        return seconds(lambda: (call(), wait(device)))

    return timed


def line(asked, what, theirs, ours, ratios):
    """Print a row for bench/RESULTS.md, and keep it under --out."""
    on = torch.cuda.get_device_name(asked.device) if asked.device.startswith("cuda") else "no GPU"
    row = f"| {what} | {theirs} | {ours} | {spread(ratios)} | {on}; {machine('faiss-cpu')} |"
    print(f"\n{row}", flush=True)
    with (asked.out / "lines.md").open("a") as lines:
        lines.write(f"{row}\n")


# --- lanes against a loop


def lanes(asked):
    """Train digits- and MNIST-sized VAEs in 10 and in 100 lanes, and one after another."""
    digits = (load_digits().data / 16).astype(np.float32)
    train_images, _, _, name = images_of(asked)
    pixels = binarised(train_images[: asked.lane_rows])
    cases = {
        "digits, 64-128-64-8": (digits[: asked.lane_rows], VAE(hidden=(128, 64), latent_dim=8)),
        f"{name}, 784-512-256-16": (pixels, VAE(hidden=(512, 256), latent_dim=16, likelihood="bernoulli")),
    }
    for case, (X, model) in cases.items():
        compare_lanes(asked, case, X, model.set_params(epochs=asked.lane_epochs, device=asked.device).resolve(X))


def compare_lanes(asked, case, X, model):
    recipe, tensor = model.recipe(X.shape[1:], len(X), seed=0), torch.from_numpy(X)
    there, steps = tensor.to(recipe.device), recipe.steps_per_epoch * recipe.epochs
    fresh = lambda: recipe.make_module().to(recipe.device)  # noqa: E731
    at_once = [int(n) for n in asked.lanes]
    ways = {
        "straightforward": lambda: straightforward_training(fresh(), tensor.float(), recipe.epochs),
        "by hand, data on the device": lambda: by_hand(fresh(), there.float(), recipe),
    }
    clocked = {way: lambda call=call: clock(asked.device)(call) / steps for way, call in ways.items()}
    clocked["one after another"] = lambda: of_lanes(recipe, there, 1, False)
    clocked |= {f"{n} lanes": lambda n=n: of_lanes(recipe, there, n, True) for n in at_once}
    for call in clocked.values():  # warm up
        call()
    times = in_turn(clocked, asked.rounds, lambda call: 1e3 * call())
    print_times(f"{case}: training, ms a model-step", times, "straightforward", unit="ms")
    for n in at_once:
        for way in ways:
            ms = [f"{statistics.median(times[one]):.3f} ms a model-step" for one in (way, f"{n} lanes")]
            line(asked, f"{case}: {n} lanes against {way}", *ms, faster(times[f"{n} lanes"], times[way]))


def by_hand(module, X, recipe):
    """Train as well as a loop can be written: examples and order on the device, a fused Adam."""
    optimiser = torch.optim.Adam(module.parameters(), lr=recipe.learning_rate, fused=True)
    for _ in range(recipe.epochs):
        rows = torch.randperm(len(X), device=X.device)
        for some in rows[: recipe.steps_per_epoch * recipe.batch_size].view(-1, recipe.batch_size):
            optimiser.zero_grad()
            module(X[some]).mean().backward()
            optimiser.step()


def of_lanes(recipe, X, n, batched):
    """Return seconds a model-step in the epochs after the first: making networks is no part of it."""
    at = []

    def tick(finished, epoch):
        if epoch in (1, recipe.epochs):
            wait(recipe.device)
            at.append(time.perf_counter())

    train(recipe, X, [Lane(np.arange(len(X)), i, 0) for i in range(n)], batched=batched, tick=tick)
    return (at[-1] - at[0]) / (recipe.epochs - 1) / recipe.steps_per_epoch / n


# --- 100 models of the MNIST study


def study(asked):
    """Refit 10 folds x 10 repeats, training and log p, and a few models the straightforward way."""
    train_images, _, _, name = images_of(asked)
    X = binarised(train_images[: asked.images])
    model = VAE(hidden=(512, 256), latent_dim=16, likelihood="bernoulli", device=asked.device).resolve(X)
    model.set_params(epochs=fitting_epochs(asked, model, X))
    begin = time.perf_counter()
    run = stages.plan(X, model=model, out=scratch() / "run", folds=asked.folds, repeats=asked.repeats,
                      score_epochs=[model.epochs])  # fmt: skip
    planned = time.perf_counter()
    stages.refit(run)
    done = time.perf_counter()
    splits, models = run.splits(), run.splits().n_splits
    require(np.isfinite(run.log_probs(0)).all() and not run.failed(), "some refits failed")
    print(
        f"{models} models of {model.epochs} epochs on {len(X):,} images: planned in {planned - begin:.1f} s, refitted"
    )
    print(f"in {done - planned:.1f} s ({60 * models / (done - planned):.0f} models a minute) as {run.probe}")
    draws, each = run.importance_samples, []
    for out in splits.held_out[: asked.few]:
        each.append(clock(asked.device)(lambda out=out: straightforward_model(model, X, out, draws)))
    ours = (done - planned) / models
    theirs = f"{statistics.median(each):.2f} s a model (from {len(each)})"
    what = f"{name}: {models} models, {len(X):,} images, {model.epochs} epochs, log p at {draws} draws, in one refit"
    line(asked, what, theirs, f"{ours:.3f} s, {60 / ours:.0f} models a minute", [slow / ours for slow in each])


def straightforward_model(model, X, out, draws):
    module = model.make_module(X.shape[1:]).to(model.device)
    straightforward_training(module, torch.from_numpy(X[~out]).float(), model.epochs)
    return straightforward_log_prob(module, torch.from_numpy(X).float(), draws)


def fitting_epochs(asked, model, X):
    """Return the epochs, 100 at most, that leave time for all: from the pace of two epochs of both ways."""
    recipe = model.set_params(epochs=2).recipe(X.shape[1:], len(X), seed=0)
    n = asked.folds * asked.repeats
    ours = of_lanes(recipe, torch.from_numpy(X).to(recipe.device), n, True) * recipe.steps_per_epoch * n
    module = recipe.make_module().to(recipe.device)
    theirs = clock(asked.device)(lambda: straightforward_training(module, torch.from_numpy(X).float(), 2)) / 2
    print(f"an epoch: {theirs:.2f} s a model straightforward, {ours:.2f} s for {n} lanes")
    return int(np.clip(min(asked.seconds / ours, asked.seconds / (asked.few * theirs)), 2, asked.epochs))


# --- influence


def influence(asked):
    """Run influence's self check on the device, and time its products against a loop over examples."""
    train_images, test_images, labels, name = images_of(asked)
    path, folder = scratch() / "images.npz", scratch()
    np.savez(path, x_train=train_images, x_test=test_images, y_train=labels)
    kinds = ["digits"] if asked.smoke else ["digits", "MNIST"]
    sizes = ["--smoke"] if asked.smoke else ["--images", str(asked.images // 2), "--seeds", "1"]
    influence_study(["check", *sizes, "--data", *kinds, "--mnist", str(path), "--out", str(folder)])
    found = []
    for data in kinds:
        with np.load(folder / "arrays" / f"check-{data}-16-complete-0.npz") as arrays:
            first = arrays["dot"][:, 0]
        called = name if data == "MNIST" else data
        found.append(f"{int((first == np.arange(len(first))).sum())} of {len(first)} ({called})")
    setting = Setting("fully connected", train_images, asked.examples, **(TINY if asked.smoke else USUAL))
    move(setting, asked.device)
    gap = (by_genmem(setting, TASKS[1], 8, 8) - by_loop(setting, TASKS[1], 8, 8)).abs().max()
    scale = by_genmem(setting, TASKS[0], 8, 8).max()
    require(float(gap / scale) < 1e-2, f"products differ by {float(gap / scale):.1e} of the largest")
    ways = {
        "loop, 32 at once": lambda: by_loop(setting, TASKS[1], asked.examples, 32),
        "genmem": lambda: by_genmem(setting, TASKS[1], asked.examples, min(256, asked.examples)),
    }
    for call in ways.values():
        call()
    times = in_turn(ways, asked.rounds, clock(asked.device))
    print_times(f"{asked.examples} x {setting.queries} gradient products", times, "loop, 32 at once")
    what = f"influence: own strongest proponent in {' and '.join(found)}; gradient products"
    middle = [f"{statistics.median(values):.2f} s" for values in times.values()]
    line(asked, what, *middle, faster(times["genmem"], times["loop, 32 at once"]))


def move(setting, device):
    setting.module.to(device)
    for part in ("x", "z", "x_noise", "z_noise"):
        setattr(setting, part, getattr(setting, part).to(device))
    setting.parameters = {name: p.detach() for name, p in setting.module.named_parameters()}


# --- exact search


def search(asked):
    """Find the nearest neighbours on the device, by genmem and by torch.cdist, and by FAISS on the CPU."""
    import faiss

    train_images, test_images, _, name = images_of(asked)
    base, queries = (
        images[:n].reshape(min(n, len(images)), -1).astype(np.float32)
        for images, n in ((train_images, asked.rows), (test_images, asked.queries))
    )
    on_device = [torch.from_numpy(rows).to(asked.device) for rows in (queries, base)]
    k = 5
    ways = {
        "torch.cdist and topk": lambda: by_cdist(*on_device, k),
        "faiss.knn on the CPU": lambda: faiss.knn(queries, base, k),
        "genmem.nearest": lambda: nearest(queries, base, k),
    }
    found = {way: call() for way, call in ways.items()}
    distances, indices = found["genmem.nearest"]
    for way, squared in (("torch.cdist and topk", False), ("faiss.knn on the CPU", True)):
        theirs = np.sqrt(np.maximum(found[way][0], 0)) if squared else found[way][0]
        require(np.allclose(theirs, distances, rtol=1e-3, atol=1e-2), f"{way} finds other distances")
        same = (found[way][1] == indices).mean()
        print(f"{way}: {same:.3%} of the indices agree; the others are ties up to float32's rounding")
        require(same > 0.99, f"{way} finds other rows")
    times = in_turn(ways, asked.rounds, clock(asked.device))
    print_times(f"{len(queries):,} queries in {len(base):,} x {base.shape[1]}, {k} neighbours", times, "genmem.nearest")
    ours = statistics.median(times["genmem.nearest"])
    for way in list(ways)[:2]:
        what = f"exact search, {name}: {len(queries):,} in {len(base):,} x {base.shape[1]}, against {way}"
        ratios = faster(times["genmem.nearest"], times[way])
        line(asked, what, f"{statistics.median(times[way]):.3f} s", f"{ours:.3f} s", ratios)


def by_cdist(queries, base, k):
    parts = [torch.cdist(some, base).topk(k, dim=1, largest=False) for some in queries.split(1000)]
    return tuple(torch.cat(both).cpu().numpy() for both in zip(*parts, strict=True))


PARTS = {part.__name__: part for part in (lanes, study, influence, search)}


def main(argv=None):
    parser = options(__doc__)
    add_parts(parser, PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--mnist", help="an .npz file with x_train, y_train and x_test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "out")
    parser.add_argument("--seconds", type=float, default=45, help="for each way of refitting")
    usual = {"rows": 60_000, "queries": 2000, "lane_rows": 3584, "lane_epochs": 3, "lanes": (10, 100)}
    parser.set_defaults(**usual, images=4000, folds=10, repeats=10, epochs=100, few=3, examples=1000)
    tiny = {"rows": 400, "queries": 50, "lane_rows": 128, "lane_epochs": 2, "lanes": (2, 4), "rounds": 1}
    tiny |= {"images": 80, "folds": 2, "repeats": 2, "epochs": 2, "few": 2, "examples": 8}
    asked = parse(parser, argv, **tiny, device="cpu", out=None)
    asked.out = asked.out or scratch()
    asked.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", UserWarning)
    available = not asked.device.startswith("cuda") or torch.cuda.is_available()
    require(available, "torch sees no CUDA device here; --smoke runs on the CPU")
    for part in asked.parts or PARTS:
        start = time.perf_counter()
        PARTS[part](asked)
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
