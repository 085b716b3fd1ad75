"""Learning rate, weight decay and validation loss of a run at its checkpoints, from its logs and settings."""

from collections.abc import Mapping

import numpy as np

from sedarchive.compute.requests import run_facts
from sedarchive.history import Metric
from sedarchive.rolling.logged import Logged
from sedarchive.rolling.schedule import Schedule
from sedarchive.sweeps.anatomy import Anatomy


def logged_of(anatomy: Anatomy, info: Mapping[str, str]) -> Logged:
    """Logged numbers of a run, on the line between logged steps; ``info`` is what ``--runs-info`` says of it.

    The learning rate is the logged one, or that of the optimizers in the checkpoints: a peak rate from the settings
    says nothing of a step. Weight decay hardly ever changes, so that the settings' holds where nothing is logged.
    """
    run = anatomy.run
    steps = np.array(run.steps, dtype=np.int64)
    names = ("lr", "weight_decay", "val_loss")
    logged = run.metrics(names)
    lr, decay, loss = (_schedule(logged, name) for name in names)
    weight_decay = decay.at_checkpoints(steps)[1:]
    stated = run_facts(run.config, dict(info)).get("weight_decay")
    if stated is not None:
        weight_decay = np.where(np.isnan(weight_decay), float(stated), weight_decay)
    return Logged(lr.at_checkpoints(steps), lr.sums(steps), weight_decay, loss.at_checkpoints(steps))


def _schedule(metrics: list[Metric], name: str) -> Schedule:
    """Values of one metric, the first of several at a step."""
    found: dict[int, float] = {}
    for metric in metrics:
        if metric.name == name and np.isfinite(metric.value):
            found.setdefault(metric.step, metric.value)
    steps = sorted(found)
    return Schedule(np.array(steps, dtype=np.int64), np.array([found[step] for step in steps], dtype=np.float64))
