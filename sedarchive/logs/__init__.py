"""Logs: metrics from the files that trainers leave beside checkpoints."""

from sedarchive.logs.coverage import coverage_findings
from sedarchive.logs.metrics import read_metrics
from sedarchive.logs.names import Aliases, read_aliases

__all__ = ["Aliases", "coverage_findings", "read_aliases", "read_metrics"]
