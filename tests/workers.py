"""Workers in processes of their own, for tests: a dask scheduler with two workers, and those of this process."""

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import psutil

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
    "DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__ENABLED": "False",
}


def started(folder, *arguments):
    """Start `python -m distributed.cli...` in its own folder, with a log there."""
    log = open(folder / f"{len(list(folder.glob('*.log')))}.log", "w")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT
        )


@contextmanager
def dask_cluster(folder, workers=2):
    """Yield (address, scheduler, [worker, ...]) of a real cluster on this machine; end it after the block."""
    folder.mkdir()
    scheduler = started(folder, "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--no-jupyter")
    processes = [scheduler]
    try:
        address = _address(folder / "0.log")
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0")
        processes += [started(folder, "distributed.cli.dask_worker", address, *options) for _ in range(workers)]
        yield address, scheduler, processes[1:]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _address(log, seconds=60):
    deadline = time.time() + seconds
    while time.time() < deadline:
        found = re.search(r"Scheduler at:\s+(tcp://\S+)", log.read_text() if log.exists() else "")
        if found:
            return found[1]
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


def children(pid=None, but=()):
    """Return the processes that this one, or another, started to compute (not those that keep loky's books)."""
    found = []
    for process in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process not in but and "resource_tracker" not in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextmanager
def killing(find, when):
    """Send SIGKILL to `find()` once `when()` holds, from another thread; yield the list of what was killed."""
    killed, over = [], threading.Event()

    def watch():
        while not over.is_set():
            if when() and (victim := find()):
                victim.kill()
                killed.append(victim.pid)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
