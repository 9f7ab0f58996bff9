"""What the benchmarks share: options and `--smoke`, the machine in words, clocks, ratios, images to go on with.

`--smoke` runs the same code at tiny sizes, in seconds, to see that all of it works: its numbers mean nothing.
"""

import argparse
import atexit
import datetime
import importlib.metadata
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this checkout is measured, whatever else is installed

# --- options


def options(doc):
    """Return a parser with `--smoke`; settings that are no options may be given to its `set_defaults`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="all of it at tiny sizes, in seconds: does it work?")
    return parser


def add_parts(parser, names):
    """Let parts be named; without any, all are done. (With `choices`, Python 3.11 refuses to have none.)"""

    def part(name):
        if name not in names:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        return name

    parser.add_argument("parts", nargs="*", type=part, metavar="part", help=f"{', '.join(names)}; all without it")


def run_parts(given, parts):
    """Run the parts named by `--only`, as `part(smoke)`, each with its processor time."""
    print(machine())
    for name in given.only:
        start = time.process_time()
        parts[name](given.smoke)
        print(f"\n{name}: {time.process_time() - start:.0f} s of processor time", flush=True)


def parse(parser, argv=None, **tiny):
    """Return the options; with `--smoke`, `tiny` are the defaults."""
    argv = sys.argv[1:] if argv is None else argv
    if "--smoke" in argv:
        unknown = [name for name in tiny if name not in vars(parser.parse_args(argv))]
        require(not unknown, f"no such settings: {unknown}")
        parser.set_defaults(**tiny)
    return parser.parse_args(argv)


def require(right, message):
    """Stop where something is wrong: a ratio of ways that disagree says nothing."""
    if not right:
        raise SystemExit(f"wrong: {message}")


def from_tests(*parts):
    """Make the modules of a folder of tests importable."""
    sys.path.insert(0, str(ROOT.joinpath("tests", *parts)))


# --- the machine


def machine(*packages):
    """Return date, Python, versions, threads and processor in one line."""
    import torch

    found = [f"{name} {version(name)}" for name in packages]
    found = [f"Python {platform.python_version()}", f"torch {torch.__version__}", *found]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join([today(), *found, f"{torch.get_num_threads()} of {cores} threads", processor()])


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def today():
    return datetime.date.today().isoformat()


def processor():
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# --- clocks and ratios


def seconds(call, *arguments):
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def in_turn(ways, rounds, clock=seconds):
    """Return the times of each way, which take turns: a busy machine slows all alike."""
    times = {way: [] for way in ways}
    for _ in range(rounds):
        for way, call in ways.items():
            times[way].append(clock(call))
    return times


def faster(values, base):
    """Return how many times as fast as `base`, round by round."""
    return [b / v for b, v in zip(base, values, strict=True)]


def slower(values, base):
    """Return how many times as long as `base`, round by round."""
    return faster(base, values)


def spread(ratios, unit="x"):
    """Return the median with the lowest and the highest."""
    return f"{statistics.median(ratios):.2f}{unit} ({min(ratios):.2f} to {max(ratios):.2f})"


def print_times(title, times, base, compared=faster, unit="s"):
    """Print the median of each way and its ratio to `base`."""
    print(f"\n{title}")
    for way, values in times.items():
        print(
            f"  {way:<42} {statistics.median(values):9.3f} {unit}  {spread(compared(values, times[base]))}", flush=True
        )


# --- files


def scratch():
    """Return a new folder that is gone when this process is."""
    folder = tempfile.mkdtemp(prefix="bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def enlarged_digits():
    """Return scikit-learn's digits, 28 x 28 as MNIST's are, uint8 (1797, 28, 28), and their labels."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    found = load_digits()
    large = zoom(found.images / 16, (1, 2.5, 2.5), order=1)
    return np.round(255 * np.pad(large, ((0, 0), (4, 4), (4, 4)))).clip(0, 255).astype(np.uint8), found.target


def like_mnist(n_train=1200, n_test=400):
    """Return the path of an .npz file with the arrays of MNIST's, made of enlarged digits."""
    images, labels = enlarged_digits()
    path = scratch() / "like-mnist.npz"
    train, test = slice(n_train), slice(n_train, n_train + n_test)
    np.savez(path, x_train=images[train], y_train=labels[train], x_test=images[test], y_test=labels[test])
    return str(path)
