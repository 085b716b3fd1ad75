"""Sessions: a training that was resumed logs some steps again, in a new file or folder of the same logger."""

from pathlib import Path

from sedarchive.logs.formats import EVENTS
from sedarchive.logs.mlflow import STORE


class Sessions:
    """Which values of older sessions still count, while logs are taken newest first.

    What a session logs from some step on replaces what older ones of its logger say of the same metric from there on;
    different loggers of one training stand side by side. A metric that a session logs at one step only, as an
    evaluation afterwards does, replaces nothing else.
    """

    def __init__(self) -> None:
        self._begun: dict[tuple[str, str], int] = {}
        self._steps: dict[tuple[str, str], tuple[int, int]] = {}
        self._session = ("", Path())

    def enter(self, path: Path) -> None:
        """Go on to the next log."""
        session = _session(path)
        if session != self._session:
            for key, (first, last) in self._steps.items():
                if first < last:
                    self._begun[key] = min(first, self._begun.get(key, first))
            self._session, self._steps = session, {}

    def admits(self, name: str, step: int) -> bool:
        """Whether this log's value of a metric at a step counts."""
        logger, _ = self._session
        if not logger:
            return True
        first, last = self._steps.get((logger, name), (step, step))
        self._steps[logger, name] = min(first, step), max(last, step)
        return step < self._begun.get((logger, name), step + 1)


def _session(path: Path) -> tuple[str, Path]:
    """Logger and session of a file; "" for a log that is one alone."""
    if EVENTS in path.name:
        return "events", path
    for parent in path.parents:
        if parent.parent.name == "wandb" and "run-" in parent.name:
            return "wandb", parent
        if parent.parent.parent.name == STORE:
            return STORE, parent
        if parent.parent.name == "lightning_logs":
            return "lightning", parent
    return "", path
