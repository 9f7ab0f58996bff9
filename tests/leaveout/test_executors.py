"""Refits on other processes: the same numbers as on this one, also where a worker is killed; nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from refits import assert_same, planned
from workers import children, dask_cluster, killing

from genmem.errors import RunError
from genmem.leaveout import executors, refit, refitting
from genmem.leaveout.executors import dask_workers, local_workers, size_of, spread
from genmem.models import VAE


def slow(path, X, epochs=60):
    """A run of 12 refits that take some time each."""
    model = VAE(hidden=[16], latent_dim=2, epochs=epochs, batch_size=16, device="cpu")
    return planned(path, X, model, method="loop", lanes=1, score_epochs=(3, epochs))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(120, 6)) + 3 * np.repeat([0, 1, 2], 40)[:, None]).astype(np.float32)
    run = slow(tmp_path_factory.mktemp("whole") / "r", X)
    refit(run)
    return X, run


def some_done(run, count=2):
    return lambda: len(list((run.path / "shards").glob("*.npz"))) >= count


@pytest.mark.slow
def test_a_killed_worker_of_this_machine_changes_nothing(tmp_path, whole):
    X, one = whole
    two, others = slow(tmp_path / "r", X), children()  # those of tests that ran before in this process
    with killing(lambda: next(iter(children(but=others)), None), some_done(two)) as killed:
        refit(two, workers=2)
    assert len(killed) == 1
    assert_same(one, two)
    assert not [p for p in children(but=others) if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with dask_cluster(tmp_path_factory.mktemp("dask") / "c") as found:
        yield found


@pytest.mark.slow
def test_a_killed_dask_worker_changes_nothing_even_where_the_examples_are_sent(tmp_path, whole, cluster, monkeypatch):
    X, one = whole
    two, make_task = slow(tmp_path / "r", X), refitting.make_task

    def elsewhere(run, model=None):
        task = make_task(run, model)
        return replace(task, source=replace(task.source, file="/nowhere/X.npy"))

    monkeypatch.setattr(refitting, "make_task", elsewhere)
    address, _, workers = cluster
    with dask_workers(address) as executor, killing(lambda: workers[0], some_done(two)) as killed:
        wait_for(lambda: size_of(executor) == 2 or workers[0].poll() is not None)
        refit(two, executor=executor)
    assert len(killed) == 1
    assert_same(one, two)


@pytest.mark.slow
def test_a_lost_scheduler_is_named_and_what_is_finished_is_kept(tmp_path, whole, cluster):
    address, scheduler, _ = cluster
    run = slow(tmp_path / "r", whole[0], epochs=600)
    with dask_workers(address) as executor, killing(lambda: scheduler, some_done(run)):
        with pytest.raises(RunError, match="scheduler to answer"):
            refit(run, executor=executor)
    assert 2 <= 12 - len(run.pending()) < 12


@pytest.mark.slow
def test_no_scheduler_and_no_dask(monkeypatch):
    monkeypatch.setattr(executors, "DASK_SECONDS", 0.2)
    with pytest.raises(RunError, match=r"scheduler at tcp://127\.0\.0\.1:1;"), dask_workers("tcp://127.0.0.1:1"):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RunError, match=r"pip install genmem\[dask\]"), dask_workers("tcp://127.0.0.1:1"):
        pass


# SIGINT is ignored by what a shell runs in the background, and by all that it starts: the driver heeds it in any case.
DRIVER = """
import signal, sys, genmem
signal.signal(signal.SIGINT, signal.default_int_handler)
genmem.refit(genmem.Run.open(sys.argv[1]), workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_driver(tmp_path, whole, number):
    run = slow(tmp_path / "r", whole[0], epochs=3000)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(run.path)], stderr=subprocess.DEVNULL)
    try:
        workers = wait_for(lambda: len(found := computing(driver.pid)) == 2 and found)
        with pytest.raises(RunError, match="another process"):
            refit(run)
        driver.send_signal(number)
        driver.wait(120)
    finally:
        driver.kill()
        driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    with run.lock():  # free again
        pass


def computing(pid):
    """Return the workers of a process that have begun to work."""
    return [p for p in children(pid) if p.cpu_times().user > 1]


def wait_for(condition, seconds=180):
    deadline = time.time() + seconds
    while not (found := condition()):
        assert time.time() < deadline
        time.sleep(0.1)
    return found


# --- how calls are spread, with executors that do as they are told


class Told(Executor):
    """Runs each call at once, or does what `outcomes` says first: an exception to raise from it."""

    def __init__(self, *outcomes, workers=1):
        self.outcomes, self._max_workers, self.calls = list(outcomes), workers, []

    def submit(self, call, *arguments, **keywords):
        future = Future()
        self.calls.append((arguments, keywords))
        if self.outcomes and (error := self.outcomes.pop(0)):
            future.set_exception(error)
        else:
            future.set_result(call(*arguments, **keywords))
        return future


def twice(job, deaths, X):
    return None if X is None else (job * 2, deaths)


def test_the_examples_are_sent_where_they_are_asked_for():
    executor, X = Told(), np.arange(3)
    found = dict(spread(executor, twice, range(4), lambda job, deaths: (job, deaths), X))
    assert found == {job: (2 * job, 0) for job in range(4)}
    assert [keywords["X"] is X for _, keywords in executor.calls] == [False, False] + [True] * 4


def test_what_a_worker_died_of_is_done_again_three_times():
    died = BrokenExecutor("killed")
    executor = Told(died, None, died, died)
    found = dict(spread(executor, lambda job, deaths, X: deaths, "ab", lambda *both: both, np.arange(3)))
    assert sorted(found.values()) == [0, 3]
    with pytest.raises(RunError, match=r"running workers.*killed.*fewer --lanes"):
        list(spread(Told(*[died] * 4), twice, "a", lambda *both: both, np.arange(3)))


def test_no_more_is_under_way_than_two_calls_a_worker():
    under_way, most = [], []

    class Counting(ThreadPoolExecutor):
        def submit(self, *arguments, **keywords):
            under_way.append(1)
            most.append(len(under_way))
            return super().submit(*arguments, **keywords)

    with Counting(3) as executor:
        for _ in spread(executor, lambda job, X: job + 1, range(50), lambda job, _: (job,), np.arange(3)):
            under_way.pop()
    assert len(most) == 50 and max(most) <= 6 and size_of(executor) == 3


def test_what_workers_cannot_do_is_told():
    lacking = Told(ModuleNotFoundError("No module named 'mine'"))
    with pytest.raises(RunError, match=r"No module named 'mine'.*Give them genmem"):
        list(spread(lacking, twice, "a", lambda *both: both, np.arange(3)))
    with ThreadPoolExecutor(1) as closed:
        pass
    with pytest.raises(RunError, match="after shutdown"):
        list(spread(closed, twice, "a", lambda *both: both, np.arange(3)))


@pytest.mark.slow
def test_a_pool_of_local_workers_is_made_anew():
    with local_workers(1) as executor:
        with pytest.raises(BrokenExecutor):
            executor.submit(os._exit, 3).result()
        assert executor.submit(os.getpid).result() != os.getpid()
        assert executor.submit(torch.get_num_threads).result() == torch.get_num_threads()


@pytest.mark.slow
def test_a_group_that_workers_die_of_twice_is_tried_with_half_the_lanes(tmp_path, whole):
    X, _ = whole
    here, there = (planned(tmp_path / name, X, method="lanes") for name in ("here", "there"))
    refit(here)
    died = BrokenExecutor("killed")
    executor = Told(died, None, died, died)  # two calls are under way: the first dies thrice
    refit(there, executor=executor, lanes=6)
    assert [lanes for (_, _, lanes), _ in executor.calls] == [6, 6, 6, 3, 1]
    assert_same(here, there)


@pytest.mark.parametrize("address", ["nonsense", "nonsense://", "tcp://host", "http://host:8786", ""])
def test_what_is_no_address_is_said_at_once(address, monkeypatch):
    monkeypatch.setattr("distributed.Client", lambda *_, **__: pytest.fail("the scheduler was asked for"))
    with pytest.raises(RunError, match="the address of a dask scheduler"), dask_workers(address):
        pass
