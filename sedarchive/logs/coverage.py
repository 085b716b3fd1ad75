"""Whether the logs say at the checkpoints what the analyses ask for: the validation loss."""

from bisect import bisect_left
from collections.abc import Sequence
from statistics import median

from sedarchive.history import Finding, Metric

_SHOWN = 12


def coverage_findings(steps: Sequence[int], metrics: Sequence[Metric]) -> list[Finding]:
    """Warn where a run has no validation loss, or has it at fewer than half of its checkpoints.

    Parameters
    ----------
    steps
        Steps of the checkpoints, in order.
    metrics
        What the logs say, under canonical names.
    """
    logged = sorted(metric.step for metric in metrics if metric.name == "val_loss")
    if not steps:
        return []
    if not logged:
        return [_missing(metrics)]
    covered = len(set(logged) & set(steps))
    return [] if 2 * covered >= len(steps) else [_elsewhere(steps, logged, covered)]


def _missing(metrics: Sequence[Metric]) -> Finding:
    names = sorted({metric.name for metric in metrics})
    if not names:
        detail = (
            "no log is known, so there is no validation loss; put the trainer's log into the run's folder "
            "(metrics.jsonl, metrics.csv, trainer_state.json, TensorBoard's files ...) and ingest again"
        )
        return Finding("no_val_loss", "warning", detail)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    detail = (
        f"no validation loss among what is logged ({', '.join(name[:80] for name in names[:_SHOWN])}{more}); if one of "
        'them is it, say so with --aliases FILE ([aliases], then val_loss = ["NAME"]), or ask with -p target=NAME'
    )
    return Finding("no_val_loss", "warning", detail)


def _elsewhere(steps: Sequence[int], logged: Sequence[int], covered: int) -> Finding:
    away = median(_distance(step, logged) for step in sorted(set(steps) - set(logged)))
    detail = (
        f"val_loss is logged at {covered} of {len(steps)} checkpoints; for the others the nearest logged step is "
        f"{away:g} steps away (median). Values are joined at equal steps unless you ask otherwise: the view "
        "checkpoint_metrics has join_rule 'nearest' and 'interpolate' beside 'exact'"
    )
    return Finding("val_loss_elsewhere", "warning", detail)


def _distance(step: int, logged: Sequence[int]) -> int:
    """Steps to the nearest of some sorted steps."""
    at = bisect_left(logged, step)
    return min(abs(step - other) for other in logged[max(at - 1, 0) : at + 1])
