"""Logs: metrics from the files that trainers leave beside checkpoints."""

from sedarchive.logs.metrics import read_metrics

__all__ = ["read_metrics"]
