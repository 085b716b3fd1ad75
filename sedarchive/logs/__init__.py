"""Logs: metrics from the files that trainers leave beside checkpoints."""

from sedarchive.logs.coverage import coverage_findings
from sedarchive.logs.formats import log_kind
from sedarchive.logs.metrics import read_metrics
from sedarchive.logs.names import CANONICAL, Aliases, read_aliases

__all__ = ["CANONICAL", "Aliases", "coverage_findings", "log_kind", "read_aliases", "read_metrics"]
