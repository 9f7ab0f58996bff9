"""Refits by one process with one thread, by two workers with one thread each, and by one process with two threads.

The ways run in turn, round by round, each in a process of its own. Prints the seconds of the refits with and without
starting the workers, and the efficiency: seconds with one process and one thread over (workers x seconds with workers).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from common import machine, options, parse

DIGITS = "digits"
WAYS = {"1 process, 1 thread": (1, 1), "2 workers, 1 thread each": (2, 2), "1 process, 2 threads": (1, 2)}


def refit(folder, way, repeats, epochs, method, width):
    """Refit once and return the seconds: all, from the first report of a finished refit on, and of all processes."""
    import torch

    import genmem
    from genmem.data.examples import load
    from genmem.run.splits import Splits

    workers, threads = WAYS[way]
    torch.set_num_threads(threads)
    data = load(DIGITS)
    model = genmem.VAE(hidden=[width, width // 2], latent_dim=8, epochs=epochs, device="cpu")
    run = genmem.Run.create(
        folder, model=model, data=data, splits=Splits.k_fold(len(data.X), 5, repeats, 0), importance_samples=16
    )
    run.set_probe({"method": method, "lanes": 5, "device": "cpu"})
    begin, first = time.perf_counter(), []

    def listen(report):
        if report.done >= 1 and not first:
            first.append((time.perf_counter(), report.done))

    genmem.refit(run, workers=workers, progress=listen)
    end = time.perf_counter()
    used = os.times()
    started, done = first[0]
    return end - begin, (end - started) / max(1, run.splits().n_splits - done), sum(used[:4])


def measure(way, words):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", way, "--folder", f"{folder}/r", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(value) for value in done.stdout.split()]


def here(way, asked):
    """The same in this process: seconds less to wait where nothing is measured."""
    with tempfile.TemporaryDirectory() as folder:
        return refit(f"{folder}/r", way, asked.repeats, asked.epochs, asked.method, asked.width)


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--method", choices=["lanes", "loop"], default="loop")
    parser.add_argument("--ways", type=int, choices=[2, 3], default=3, help="2 leaves out the one with two threads")
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parse(parser, argv, rounds=1, repeats=1, epochs=2, width=16, ways=2)
    if asked.one:
        print(*refit(asked.folder, asked.one, asked.repeats, asked.epochs, asked.method, asked.width))
        return
    print(machine())
    ways = list(WAYS)[: asked.ways]
    found = {way: [] for way in ways}
    names = ("repeats", "epochs", "width", "method")
    words = [word for name in names for word in (f"--{name}", str(getattr(asked, name)))]
    print(f"{5 * asked.repeats} refits of {asked.epochs} epochs, {asked.method}, on {os.cpu_count()} cores")
    for _ in range(asked.rounds):
        for way in ways:
            found[way].append(here(way, asked) if asked.smoke and way != ways[1] else measure(way, words))
            seconds, each, cpu = found[way][-1]
            load = os.getloadavg()[0]
            print(f"{way:26} {seconds:6.1f} s, {each:.3f} s a refit once running; {cpu:5.1f} s of CPU; load {load:.1f}")
    medians = {way: [statistics.median(column) for column in zip(*rows, strict=True)] for way, rows in found.items()}
    one, *others = ways
    for way in others:
        whole, running = (medians[one][at] / medians[way][at] / 2 for at in (0, 1))
        print(f"efficiency of {way}: {whole:.2f} with starting them, {running:.2f} once running")


if __name__ == "__main__":
    main()
