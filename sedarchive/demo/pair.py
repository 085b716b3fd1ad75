"""A training run and its control without weight decay, side by side; what was trained before is used again."""

import json
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sedarchive.demo.train import (
    CHECKPOINTS,
    CONFIG,
    LOG,
    TrainSettings,
    config_of,
    file_name,
    require_torch,
    train_run,
)
from sedarchive.errors import HistoryError, SedarchiveError

PAIR_NAMES = ("weight_decay", "no_weight_decay")
"""Folders, so run names, of the two runs of :func:`train_pair`."""

_POLL_SECONDS = 0.2


def train_pair(
    folder: Path, settings: TrainSettings, progress: Callable[[str, int], None] | None = None
) -> tuple[Path, Path]:
    """Train a run and its control without weight decay, side by side in two processes of one thread.

    Split and initial weights of the two are the same. A run that is complete is left as it is, one that was
    interrupted begins anew.

    Parameters
    ----------
    folder
        Receives one folder a run, named by :data:`PAIR_NAMES`.
    settings
        Of the run with weight decay; the control differs in that alone.
    progress
        Called with a run's name and the step of its newest checkpoint.

    Returns
    -------
    The folders of the run with weight decay and of its control.

    Raises
    ------
    MissingExtraError
        If torch is not installed.
    HistoryError
        If one of the folders holds checkpoints of other settings.
    SedarchiveError
        If a training process ends before its run does.
    """
    require_torch()
    context = multiprocessing.get_context("spawn")  # a fork after threads have started may deadlock
    processes = []
    for name in runs_to_train(folder, settings):
        _remove_unfinished(folder / name)
        task = (folder / name, _pair(settings)[name])
        processes.append(context.Process(target=_train_in_child, args=task, name=name, daemon=True))
    _run_all(processes, folder, progress)
    decayed, control = (folder / name for name in PAIR_NAMES)
    return decayed, control


def runs_to_train(folder: Path, settings: TrainSettings) -> tuple[str, ...]:
    """Names of the runs of a pair that ``folder`` does not hold complete.

    Raises
    ------
    HistoryError
        If one of them holds checkpoints of other settings.
    """
    pair = _pair(settings)
    for name, of_run in pair.items():
        if any((folder / name).glob(CHECKPOINTS)) and (difference := _difference(folder / name, of_run)):
            raise HistoryError(
                f"{folder / name} holds checkpoints of another training run ({difference}); choose another folder"
            )
    return tuple(name for name, of_run in pair.items() if not _is_complete(folder / name, of_run))


def _pair(settings: TrainSettings) -> dict[str, TrainSettings]:
    if settings.weight_decay <= 0:
        raise ValueError(f"weight_decay {settings.weight_decay} must be positive: the control is the run with 0")
    return dict(zip(PAIR_NAMES, (settings, replace(settings, weight_decay=0.0)), strict=True))


def _difference(run: Path, settings: TrainSettings) -> str:
    """In what the config of a run is not that of these settings."""
    wanted = config_of(settings)
    try:
        found = json.loads((run / CONFIG).read_bytes())
        unlike = [key for key in wanted if found.get(key) != wanted[key]]
        return ", ".join(f"{key} {found.get(key)}, not {wanted[key]}" for key in unlike)
    except (OSError, ValueError, AttributeError):
        return f"{CONFIG} is missing or not the demo's"


def _is_complete(run: Path, settings: TrainSettings) -> bool:
    """Whether every checkpoint is there, and in the log: a line of it is written after its checkpoint."""
    steps = list(settings.checkpoint_steps)
    return _logged_steps(run / LOG) == steps and all((run / file_name(step)).exists() for step in steps)


def _logged_steps(log: Path) -> list[Any]:
    try:
        return [json.loads(line)["step"] for line in log.read_bytes().splitlines()]
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or its last line is half written
        return []


def _remove_unfinished(run: Path) -> None:
    for path in (run / LOG, *run.glob(CHECKPOINTS)):
        path.unlink(missing_ok=True)


def _train_in_child(folder: Path, settings: TrainSettings) -> None:
    """Train one run in a process whose parent handles Ctrl-C for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    train_run(folder, settings)


def _run_all(processes: Sequence[BaseProcess], folder: Path, progress: Callable[[str, int], None] | None) -> None:
    """Start the processes and wait for all; none outlives this call."""
    try:
        with _interrupts_ignored():
            for process in processes:
                process.start()
        _watch(processes, folder, progress or (lambda run, step: None))
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C for the moment in which processes start: they inherit that, and none dies of it in its imports."""
    if threading.current_thread() is not threading.main_thread():  # no other thread may set it
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _watch(processes: Sequence[BaseProcess], folder: Path, progress: Callable[[str, int], None]) -> None:
    """Report new checkpoints until every process has ended well, or one has not."""
    reported: dict[str, int] = {}
    running = True
    while running:
        running = any(process.is_alive() for process in processes)  # asked first: the last checkpoint is reported too
        for process in processes:
            if process.exitcode:
                raise SedarchiveError(
                    f"training {folder / process.name} ended early with exit code {process.exitcode}; "
                    "the cause is on stderr above (a negative code is a signal, -9 often means too little memory)"
                )
            step = _newest_step(folder / process.name)
            if step is not None and step != reported.get(process.name):
                reported[process.name] = step
                progress(process.name, step)
        if running:
            time.sleep(_POLL_SECONDS)


def _newest_step(folder: Path) -> int | None:
    return max((int(path.stem.removeprefix("step_")) for path in folder.glob(CHECKPOINTS)), default=None)
