"""Where refits run: processes of this machine, a dask cluster, or any `concurrent.futures.Executor`."""

import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from joblib.externals.loky import ProcessPoolExecutor
from numpy.typing import NDArray

from genmem.errors import GenmemError, RunError

T = TypeVar("T")
TRIES = 4  # the first and three more
DASK_SECONDS = 15
ADDRESS = re.compile(r"((tcp|tls|ws|wss|ucx)://)?[^\s/]+:\d+")
SAFE = {"PYTHONSAFEPATH": "1"}  # a new process imports nothing from the current folder before it has our path
KEPT = "Run the same command again; what is finished is kept."


@contextmanager
def local_workers(n: int, threads: int | None = None) -> Iterator[Executor]:
    """Yield `n` worker processes on this machine, with `threads` each; by default this process's threads are divided.

    Worker processes start afresh (no fork, no main guard needed) and are replaced when they die. They end with the
    block, however it ends, and soon after this process, however it ends.
    """
    workers = _LocalWorkers(n, threads or max(1, torch.get_num_threads() // n))
    try:
        yield workers
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


@contextmanager
def dask_workers(address: str) -> Iterator[Executor]:
    """Yield the workers of the dask scheduler at `address`, such as "tcp://host:8786".

    Raises:
        RunError: `dask.distributed` is not installed, or no scheduler answers.
    """
    try:
        import distributed
    except ImportError as error:
        raise RunError(
            expected="dask.distributed, to reach a cluster", got=str(error), do="pip install genmem[dask]"
        ) from error
    connect: Any = distributed.Client
    if not ADDRESS.fullmatch(address):  # otherwise the client tries for half a minute
        raise RunError(
            expected="the address of a dask scheduler, such as tcp://host:8786", got=repr(address), do="Correct it."
        )
    try:
        client = connect(address, timeout=DASK_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise RunError(
            expected=f"a dask scheduler at {address}",
            got=f"{type(error).__name__}: {error}",
            do="Start one with `dask scheduler`, and give the address it prints.",
        ) from error
    try:
        yield client.get_executor(retries=TRIES - 1, pure=False)
    finally:
        client.close()


def refuse_fork(executor: Executor | None) -> None:
    """Refuse a pool whose workers are copies of this process.

    Raises:
        RunError: the executor forks.
    """
    context = getattr(executor, "_mp_context", None)  # of a ProcessPoolExecutor
    if context is not None and context.get_start_method() == "fork":
        raise RunError(
            expected="worker processes that start afresh",
            got="a ProcessPoolExecutor that forks: torch deadlocks in copies of a process that has already computed",
            do='Create it with `mp_context=multiprocessing.get_context("spawn")`.',
        )


def size_of(executor: Executor | None) -> int:
    """Return how many calls an executor runs at once; 1 for this process, and for dask without workers yet."""
    if executor is None:
        return 1
    if (client := _dask_client(executor)) is not None:
        return max(1, int(sum(client.nthreads().values())))
    found = getattr(executor, "_max_workers", None)
    return found if isinstance(found, int) else os.cpu_count() or 1


def spread(
    executor: Executor,
    call: Callable[..., T | None],
    jobs: Iterable[Any],
    arguments: Callable[[Any, int], tuple[Any, ...]],
    X: NDArray[Any],
    idle: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Any, T]]:
    """Yield (job, result) as the jobs finish; each worker has at most two calls at a time.

    Args:
        executor: where the calls run.
        call: run as `call(*arguments(job, deaths), X=...)`. X is None at first: a worker opens the run's file. If the
            call returns None, the examples are sent: once to a dask cluster, with each call otherwise.
        jobs: the jobs.
        arguments: returns the arguments of one job; `deaths` is how often workers died while running it.
        X: the examples.
        idle: called about every second, so that an interrupt is noticed.

    Raises:
        RunError: workers died repeatedly, the pool is permanently broken, or the scheduler is gone.
        GenmemError: raised by a call.
    """
    crew, waiting = _Crew(executor, call, X), deque((job, 0) for job in jobs)
    flying: dict[Future[T | None], tuple[Any, int]] = {}
    try:
        while waiting or flying:
            while waiting and len(flying) < 2 * crew.size():
                job, deaths = waiting.popleft()
                flying[crew.submit(arguments(job, deaths))] = job, deaths
            for future in wait(flying, timeout=1, return_when=FIRST_COMPLETED).done:
                job, deaths = flying.pop(future)
                found, died = crew.result(future, deaths)
                if found is None:
                    waiting.appendleft((job, deaths + died))
                else:
                    yield job, found
            idle()
    finally:
        for future in flying:
            future.cancel()


class _Crew:
    """Submits calls, and distinguishes a worker that died, one that needs the examples, and an error of the call."""

    def __init__(self, executor: Executor, call: Callable[..., Any], X: NDArray[Any]) -> None:
        self._executor, self._call, self._X = executor, call, X
        self._client, self._size = _dask_client(executor), 1
        self._sent: Any = None

    def size(self) -> int:
        with suppress(OSError):  # the scheduler does not answer: its futures will report that
            self._size = size_of(self._executor)
        return self._size

    def submit(self, arguments: tuple[Any, ...]) -> Future[Any]:
        options = {} if self._client is None else {"pure": False}  # otherwise dask takes a second try for the first
        try:
            return self._executor.submit(self._call, *arguments, X=self._sent, **options)
        except Exception as error:  # broken, shut down or out of reach
            raise self._gone(error) from error

    def result(self, future: Future[Any], deaths: int) -> tuple[Any, bool]:
        """Return what a call returned, None if it must be repeated, and whether its worker died."""
        try:
            found = future.result()
        except GenmemError:
            raise
        except (BrokenExecutor, CancelledError) as error:
            self._sent = None  # lost with the workers that held it
            lost = self._client is not None and self._client.status != "running"
            if lost or deaths + 1 >= TRIES:
                raise self._gone(error) from error
            return None, True
        except Exception as error:
            killed = type(error).__name__ == "KilledWorker"  # dask has already tried again
            raise (self._gone if killed else self._unable)(error) from error
        if found is None:
            self._send()
        return found, False

    def _send(self) -> None:
        if self._client is None:
            self._sent = self._X
        elif self._sent is None:
            self._sent = self._client.scatter(self._X, hash=False, broadcast=True)

    def _gone(self, error: BaseException) -> RunError:
        lost = self._client is not None and self._client.status != "running"
        return RunError(
            expected="the dask scheduler to answer" if lost else "running workers",
            got=f"{type(error).__name__}: {error}",
            do=f"{KEPT} If workers run out of memory, use fewer of them or fewer --lanes.",
        )

    def _unable(self, error: BaseException) -> RunError:
        return RunError(
            expected="workers that can run the refits",
            got=f"{type(error).__name__}: {error}",
            do="Give them genmem, the model's own module and the library versions of this process. " + KEPT,
        )


class _LocalWorkers(Executor):
    """A pool of loky that is created anew once it is broken."""

    def __init__(self, n: int, threads: int) -> None:
        self._max_workers, self._threads = n, threads
        self._pool = self._made()

    def _made(self) -> ProcessPoolExecutor:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return ProcessPoolExecutor(
            self._max_workers,
            initializer=_prepare_worker,
            initargs=(self._threads, os.getpid()),
            env={**{name: str(self._threads) for name in names}, **SAFE},
        )

    def submit(self, call: Callable[..., T], /, *args: Any, **keywords: Any) -> Future[T]:
        try:
            future = self._pool.submit(call, *args, **keywords)
        except BrokenExecutor:
            self.shutdown()
            self._pool = self._made()
            future = self._pool.submit(call, *args, **keywords)
        return future  # type: ignore[no-any-return]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait=True, kill_workers=True)


def _prepare_worker(threads: int, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches workers too; the driver ends them
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _dask_client(executor: Executor) -> Any:
    """Return the client of a dask executor, None for other executors."""
    return getattr(executor, "_client", None) if type(executor).__module__.startswith("distributed") else None
