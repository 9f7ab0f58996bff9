"""Run the benchmarks, one after another.

    python bench/run.py                     # all that need no further data, each in a process of its own
    python bench/run.py --mnist mnist.npz   # all, and those that can on MNIST
    python bench/run.py training search     # some
    python bench/run.py --smoke             # all of them at tiny sizes, in this process: does everything work?

`BENCHES` is the one list: a file in bench/ that is not in it fails the smoke run.
"""

import argparse
import contextlib
import importlib
import io
import os
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
MNIST = "--mnist"
# Name: options of a full run without further data; None where there is none.
BENCHES = {
    "training": [],
    "leaveout": [],
    "scaling": [],
    "posterior": [],
    "search": [],
    "neighbors": ["search", "copying", "memory"],
    "neurons": [],
    "regions": [],
    "densities": ["--sizes", "2000", "10000"],
    "held_out": [],
    "influence": [],
    "calibration": [],
    "calibration_truth": [],
    "calibration_list": [],
    "calibration_groups": [],
    "calibration_nulls": [],
    "curves": [],
    "adjusted": [],
    "six_clusters": [],
    "copycheck_calibration": [],
    "copied_share": [],
    "two_moons": [],
    "spaces": [],
    "tabular": [],
    "agreement": [],
    "compare": ["digits"],
    "influence_study": None,
    "neighbor_study": ["digits", "planted"],
    "neuron_study": [],
    "trajectory": None,
    "device": None,  # bench/device.sh, for a machine with CUDA
}
SHARED = {"common", "run"}  # no benchmarks


def missing():
    """Return the files of this folder that are in no list, and the entries that have no file."""
    there = {path.stem for path in HERE.glob("*.py")} - SHARED
    return sorted(there ^ set(BENCHES))


def takes(name, option):
    return f'"{option}"' in (HERE / f"{name}.py").read_text()


# --- the smoke run


def smoke(name):
    """Run one benchmark at tiny sizes; return what is wrong, or None."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), kept_settings():
            if name == "device":
                device_script(said)
            else:
                importlib.import_module(name).main(["--smoke"])
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return None
        return f"{said.getvalue()[-3000:]}\n{traceback.format_exc()}"
    return None


def device_script(said):
    command = ["bash", str(HERE / "device.sh"), "--smoke"]
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    said.write(done.stdout + done.stderr)
    if done.returncode:
        raise SystemExit(f"bench/device.sh --smoke: exit status {done.returncode}")


@contextlib.contextmanager
def kept_settings():
    """Keep what a benchmark sets for its process from the next one."""
    import torch

    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tiny data give many
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def smoke_all(names):
    """Run benchmarks at tiny sizes and return those that failed, with what they said."""
    failed = {name: "no such file, or not in the list of bench/run.py" for name in missing()}
    begin = time.perf_counter()
    for name in names:
        start = time.perf_counter()
        wrong = failed.get(name) or smoke(name)
        if wrong:
            failed[name] = wrong
        print(f"{name:<22} {time.perf_counter() - start:5.1f} s  {'FAILED' if wrong else 'ok'}", flush=True)
    print(f"{len(names)} benchmarks in {time.perf_counter() - begin:.0f} s, {len(failed)} failed")
    return failed


# --- the full run


def run_all(names, mnist, named):
    """Run benchmarks at full size, each in a process of its own; return those that failed, with what is known."""
    failed = {}
    for name in names:
        data = [MNIST, mnist] if mnist and takes(name, MNIST) else []
        words = [] if data or BENCHES[name] is None else BENCHES[name]
        if BENCHES[name] is None and not data and not named:
            print(f"\n== {name}: left out, it needs {'CUDA' if name == 'device' else MNIST}", flush=True)
            continue
        print(f"\n== {name} {' '.join([*words, *data])}", flush=True)
        command = ["bash", str(HERE / "device.sh")] if name == "device" else [sys.executable, str(HERE / f"{name}.py")]
        done = subprocess.run([*command, *words, *data])
        if done.returncode:
            failed[name] = f"exit status {done.returncode}"
    return failed


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="all without any")
    parser.add_argument("--smoke", action="store_true", help="at tiny sizes, in this process: does everything work?")
    parser.add_argument("--mnist", help="an .npz file with x_train, y_train, x_test and y_test")
    asked = parser.parse_args(argv)
    if unknown := set(asked.names) - set(BENCHES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}: choose from {', '.join(BENCHES)}")
    names = asked.names or list(BENCHES)
    failed = smoke_all(names) if asked.smoke else run_all(names, asked.mnist, bool(asked.names))
    for name, wrong in failed.items():
        print(f"\n== {name} failed\n{wrong}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
