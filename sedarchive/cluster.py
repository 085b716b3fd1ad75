"""The sweeps on a Dask cluster: the same tasks in other processes, their results in the same order.

A function travels pickled, as the way to open what it reads, and each worker
process opens that once a sweep: a worker that dies takes nothing along, and one
that comes later is as good as the others. Only this module uses ``distributed``,
which takes two seconds to import.
"""

import asyncio
import ctypes
import logging
import pickle
import secrets
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import resource_tracker
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import scipy
from threadpoolctl import threadpool_limits

from sedarchive import __version__
from sedarchive.errors import ClusterError, MissingExtraError
from sedarchive.executor import Executor, in_order
from sedarchive.plan.tasks import TASKS_PER_WORKER
from sedarchive.sizes import MIB

Task = TypeVar("Task")
Result = TypeVar("Result")

LOCAL = "local"
NO_CLUSTER = "none"
CONNECT_SECONDS = 5.0
WORKERS_SECONDS = 30.0
"""Longest time that a cluster may be without any worker."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SAME_COMMAND = "what was finished is kept, and the same command goes on from there"


@contextmanager
def sweep_executor(cluster: str | None, here: Executor) -> Iterator[Executor]:
    """Executor of the sweeps: ``here``, or a cluster's workers while the context lasts.

    Parameters
    ----------
    cluster : str or None
        ``local`` starts one process for each worker of ``here``; an address such as ``tcp://host:8786`` is that of a
        running scheduler, all of whose workers are used; ``none`` or None is ``here`` itself.
    here : Executor
        How tasks are run in this process.

    Raises
    ------
    ClusterError
        If the cluster cannot be reached or started, has no worker, or other versions of what the bits depend on.
    MissingExtraError
        If ``distributed`` is not installed.
    """
    if cluster is None or cluster == NO_CLUSTER:
        yield here
        return
    with _connected(cluster, here.workers) as connection:
        yield ClusterExecutor(connection.n_threads, connection=connection)


@dataclass(frozen=True, kw_only=True)
class ClusterExecutor(Executor):
    """Runs tasks that only read, on the workers of a cluster."""

    connection: "Connection"

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Results of ``function`` for each task, in order; ``function`` and tasks are pickled.

        Raises
        ------
        ClusterError
            If a task is lost for good.
        """
        # where not all workers may run at once, no more tasks are handed out than may
        each = TASKS_PER_WORKER if self.workers >= self.connection.n_threads else 1
        return in_order(partial(self.connection.submit, ship(function)), tasks, each * self.workers)


class Shipped(NamedTuple):
    """A function as it travels: small, and new for each sweep, so that no worker uses one it opened before."""

    sweep: str
    versions: tuple[tuple[str, str], ...]
    pickled: bytes


def ship(function: Callable[..., Any]) -> Shipped:
    """Pack a function for the workers."""
    return Shipped(secrets.token_hex(8), tuple(versions().items()), pickle.dumps(function))


def versions() -> dict[str, str]:
    """Versions that the bits of results depend on."""
    blas: Any = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    own = {"sedarchive": __version__, "numpy": np.__version__, "scipy": scipy.__version__}
    return {**own, "BLAS": f"{blas['name']} {blas['version']}"}


def check_versions(worker: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuse a worker with other versions than those of this process.

    Raises
    ------
    ClusterError
        Naming the worker and what differs.
    """
    differing = [
        f"{name} {found.get(name)} (here {wanted[name]})" for name in wanted if found.get(name) != wanted[name]
    ]
    if differing:
        raise ClusterError(
            f"worker {worker} has {', '.join(differing)}: results could differ in their last bits; install the same "
            "versions on both sides, or use --cluster none"
        )


def run_shipped(shipped: Shipped, task: Any) -> Any:
    """Run one task: what a worker does."""
    return _opened(shipped)(task)


@lru_cache(maxsize=1)  # what it opened, and the memory it read into, goes with the next sweep
def _opened(shipped: Shipped) -> Callable[[Any], Any]:
    from distributed import get_worker

    check_versions(get_worker().address, versions(), dict(shipped.versions))
    function: Callable[[Any], Any] = pickle.loads(shipped.pickled)  # which loads every BLAS that it calls
    threadpool_limits(1)  # for good, as the next: a worker is one thread of work, here as there
    _keep_freed_memory()
    return function


def _keep_freed_memory() -> None:
    """Let glibc use blocks again as it does by itself: Dask has it give back each at once, which costs a third."""
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * MIB)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 * MIB)


@dataclass(frozen=True)
class Connection:
    """A cluster as this process sees it."""

    client: Any
    name: str
    """For messages."""
    n_threads: int
    """Tasks that its workers run at once."""

    def submit(self, shipped: Shipped, task: Any) -> "RemoteResult[Any]":
        """Hand out one task."""
        return RemoteResult(self, self.client.submit(run_shipped, shipped, task, pure=False))

    def check_alive(self) -> None:
        """Raise ClusterError if no worker is left, and none comes."""
        try:
            self.client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except (TimeoutError, OSError) as error:
            raise ClusterError(f"{self.name}: no worker is left ({error}); {_SAME_COMMAND}") from error


@dataclass(frozen=True)
class RemoteResult(Generic[Result]):
    """A result on its way."""

    connection: Connection
    future: Any

    def result(self) -> Result:
        """Wait for it; an exception of the task is raised as it was.

        Raises
        ------
        ClusterError
            If the cluster has lost it for good.
        """
        from distributed import KilledWorker

        while True:
            try:
                found: Result = self.future.result(timeout=WORKERS_SECONDS)
                return found
            except TimeoutError:
                if self.future.status == "error":  # the task's own
                    raise
                self.connection.check_alive()
            except KilledWorker as error:
                raise ClusterError(
                    f"{self.connection.name}: one task ended {error.allowed_failures + 1} workers, the last of them "
                    f"{error.last_worker.address}, for want of memory perhaps; with a smaller --max-mem tasks hold less"
                ) from error
            except CancelledError as error:
                raise ClusterError(f"{self.connection.name}: the scheduler is lost; {_SAME_COMMAND}") from error

    def cancel(self) -> None:
        """Give it up, unless that is done with all else."""
        if self.connection.client.status == "running":
            self.future.cancel()


@contextmanager
def _connected(cluster: str, workers: int) -> Iterator[Connection]:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError(
            f"--cluster {cluster} needs distributed, which is not installed: pip install 'sedarchive[cluster]', or use "
            "--cluster none"
        ) from error
    name = "the local cluster" if cluster == LOCAL else f"the cluster at {cluster}"
    with _quiet(), ExitStack() as stack:
        try:
            place = _local_cluster(stack, workers) if cluster == LOCAL else _greeted(cluster)
            client = distributed.Client(place, timeout=CONNECT_SECONDS, set_as_default=False)
            stack.enter_context(client)
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except (OSError, RuntimeError, ValueError) as error:
            raise ClusterError(f"{name} cannot be used: {error}; {_way_out(cluster)}") from error
        _check_workers(client)
        yield Connection(client, name, sum(client.nthreads().values()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log off stderr: what matters of it becomes an error of ours."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _way_out(cluster: str) -> str:
    if cluster == LOCAL:
        return "a script that asks for it must guard its main part by `if __name__ == '__main__':`"
    return "start a scheduler and workers there, or use --cluster local or --cluster none"


def _greeted(address: str) -> str:
    """Address of a scheduler, once it has answered: a client of anything else may wait forever."""
    from distributed import Security, rpc

    async def greeting() -> Any:
        async with rpc(address, connection_args=Security().get_connection_args("client")) as there:
            return await asyncio.wait_for(there.identity(), CONNECT_SECONDS)

    try:
        with ThreadPoolExecutor(1) as pool:  # this thread may have an event loop already, as in a notebook
            identity = pool.submit(asyncio.run, greeting()).result()
    except TimeoutError as error:
        raise OSError(f"no answer within {CONNECT_SECONDS:.0f} s") from error
    except MemoryError as error:  # the length of a message, as read from something else's
        raise OSError("what answers is no Dask scheduler") from error
    if identity["type"] != "Scheduler":
        raise OSError(f"what answers is a {identity['type']}, no scheduler")
    return address


def _local_cluster(stack: ExitStack, workers: int) -> Any:
    """A cluster of processes on this machine, which ends with ``stack``."""
    from distributed import LocalCluster

    # One half started cannot be stopped in order. And what starts now, processes that replace others later included,
    # stays deaf to the Ctrl-C of a terminal: it is for this process to hear it, and to stop them.
    resource_tracker.ensure_running()  # which would undo it when it starts
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # it serves a page or two even so
                memory_limit=None,  # blocks keep to --max-mem; Dask would stop and kill by resident memory
                silence_logs=logging.CRITICAL,
            )
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _check_workers(client: Any) -> None:
    """Refuse a cluster of which any worker differs; those that come later are refused by themselves."""
    for worker, found in client.run(versions, on_error="return").items():
        if isinstance(found, Exception):
            raise ClusterError(
                f"worker {worker} cannot import sedarchive {__version__} ({found}); install it there, or use "
                "--cluster none"
            )
        check_versions(worker, found, versions())
