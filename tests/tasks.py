"""Tasks for the workers of a cluster, which import this module: it imports little."""

import os
import signal
import time
from pathlib import Path

import scipy.linalg  # noqa: F401  # loads a BLAS, as numpy does
from threadpoolctl import threadpool_info


def interval(seconds):
    """When a task began and ended."""
    begin = time.time()
    time.sleep(seconds)
    return begin, time.time()


def blas_threads(_):
    """Threads of each BLAS of this process: that of numpy and that of scipy."""
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def die_if_first(task):
    """Kill this process, unless another has done so for the same ``mark``; else the number."""
    mark, number = task
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        return number
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def process_id(seconds):
    """Process of a task that takes a while."""
    time.sleep(seconds)
    return os.getpid()


def inverse(number):
    """Fails for 0."""
    return 1 / number


def out_of_time(_):
    """Fail in the way that waiting for a result may."""
    raise TimeoutError("of the task itself")
