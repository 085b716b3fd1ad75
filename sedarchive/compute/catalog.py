"""Rows of the tables that say what a run is: runs, checkpoints, tensors, matrices, metrics, audit."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sedarchive import __version__
from sedarchive.archive.records import canonical_digest
from sedarchive.compute.requests import run_facts
from sedarchive.history import Finding, Metric
from sedarchive.leaves import Leaf, Scope
from sedarchive.logs import coverage_findings
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.spectra_sweep import matrix_leaves
from sedarchive.sweeps.stored_grams import StoredGrams
from sedarchive.tables import Database

Columns = dict[str, Any]
UNREADABLE = "unreadable"
"""Check name of tensors that are left out of all scopes, since they cannot be read."""
CATALOG = ("runs", "checkpoints", "tensors", "matrices", "metrics", "audit")


def write_catalog(database: Database, anatomy: Anatomy, info: Mapping[str, str], findings: Sequence[Finding]) -> None:
    """Replace a run's rows in the six tables, in one transaction, unless they stand as they are.

    ``info`` is what ``--runs-info`` says of the run; ``findings`` is what ``compute`` noticed.
    """
    run = anatomy.run
    metrics = run.metrics()
    tables = {
        "runs": _run_row(anatomy, dict(info)),
        "checkpoints": _checkpoint_rows(anatomy, metrics),
        "tensors": _tensor_rows(anatomy, findings),
        "matrices": _matrix_rows(anatomy),
        "metrics": _metric_rows(metrics),
        "audit": audit_rows(
            [*run.findings, *_history_findings(anatomy), *coverage_findings(run.steps, metrics), *findings]
        ),
    }
    key = canonical_digest(tables)[:16]
    standing = database.rows("SELECT key FROM computations WHERE run = ? AND table_name = 'catalog'", [run.name]).rows
    if standing == [(key,)]:
        return
    now = datetime.now(UTC)
    made = {"key": key, "versions": f"sedarchive {__version__}", "started": now, "finished": now}
    with database.transaction():
        for table, columns in tables.items():
            database.replace(table, {"run": run.name}, columns)
        database.replace("computations", {"run": run.name, "table_name": "catalog"}, {k: [v] for k, v in made.items()})


def _run_row(anatomy: Anatomy, info: dict[str, str]) -> Columns:
    architecture = anatomy.architecture
    return {
        "source": anatomy.run.record["source"],
        "architecture": architecture.family,
        "n_checkpoints": len(anatomy.run.commits),
        "n_parameters": anatomy.n_parameters,
        "n_layers": architecture.n_layers,
        **run_facts(anatomy.run.config, info),
    }


def _checkpoint_rows(anatomy: Anatomy, metrics: Sequence[Metric]) -> Columns:
    commits = anatomy.run.commits
    logged = {(metric.name, metric.step): metric.value for metric in metrics}
    tokens = [logged.get(("tokens", commit.step)) for commit in commits]
    return {
        "step": [commit.step for commit in commits],
        "checkpoint_index": list(range(len(commits))),
        "tokens": [None if value is None else int(value) for value in tokens],
        "source": [commit.source["path"] for commit in commits],
        "digest": [commit.digest for commit in commits],
        "lr": [logged.get(("lr", commit.step)) for commit in commits],
        "weight_decay": [logged.get(("weight_decay", commit.step)) for commit in commits],
    }


def _tensor_rows(anatomy: Anatomy, findings: Sequence[Finding]) -> Columns:
    tensors = list(anatomy.tensors.values())
    unreadable = {one.tensor: f"cannot be read: {one.detail}" for one in findings if one.check_name == UNREADABLE}
    roles = [anatomy.roles[tensor.name] for tensor in tensors]
    return {
        "tensor": [tensor.name for tensor in tensors],
        "shape": ["x".join(map(str, tensor.spec.shape)) for tensor in tensors],
        "dtype": [" then ".join(tensor.dtypes) for tensor in tensors],
        "n_elements": [tensor.spec.n_elements for tensor in tensors],
        "layer": [role.layer for role in roles],
        "role": [role.role for role in roles],
        "kind": [role.kind for role in roles],
        "tied_to": [anatomy.tied_to.get(tensor.name) for tensor in tensors],
        "skipped_reason": [unreadable.get(one.name) or anatomy.skipped_reason(one.name) for one in tensors],
    }


def _matrix_rows(anatomy: Anatomy) -> Columns:
    leaves = matrix_leaves(anatomy)
    return {
        "matrix": [leaf.name for leaf in leaves],
        "tensor": [leaf.tensor for leaf in leaves],
        "layer": [leaf.layer for leaf in leaves],
        "role": [leaf.role for leaf in leaves],
        "expert": [leaf.expert for leaf in leaves],
        "n_rows": [leaf.shape[0] for leaf in leaves if leaf.shape],
        "n_cols": [leaf.shape[1] for leaf in leaves if leaf.shape],
    }


def _metric_rows(metrics: Sequence[Metric]) -> Columns:
    return {name: [getattr(metric, name) for metric in metrics] for name in ("step", "name", "value", "source")}


def audit_rows(findings: Sequence[Finding]) -> Columns:
    """Rows of ``audit``."""
    names = ("step", "tensor", "check_name", "severity", "detail")
    return {name: [getattr(finding, name) for finding in findings] for name in names}


def sweep_findings(anatomy: Anatomy, stored: StoredGrams, leaves: Sequence[Leaf]) -> list[Finding]:
    """What the counts of the Gram sweep show: values that are not finite."""
    found = []
    for leaf in leaves:
        positions = list(anatomy.tensors[leaf.tensor].positions)
        bad = stored.counts(Scope(leaf.name, (leaf,))).nonfinite[positions]
        steps = [anatomy.run.steps[position] for position, count in zip(positions, bad, strict=True) if count]
        if steps:
            first = f"{int(bad[bad > 0][0])} of {leaf.n_elements} values"
            detail = (
                f"{first} of {leaf.name} are NaN or infinite at step {steps[0]}"
                + (f" and {len(steps) - 1} later ones" if len(steps) > 1 else "")
                + "; windows that hold these steps are NULL with status nonfinite"
            )
            found.append(Finding("nonfinite", "error", detail, steps[0], leaf.tensor))
    return found


def _history_findings(anatomy: Anatomy) -> list[Finding]:
    """What the committed history itself shows: changes of dtype and shape, tensors that come and go."""
    found = []
    for tensor in anatomy.tensors.values():
        first = anatomy.run.steps[tensor.positions[0]]
        if len(tensor.dtypes) > 1:
            detail = f"stored as {' then '.join(tensor.dtypes)}; updates across the border mix their rounding"
            found.append(Finding("dtype_changed", "warning", detail, tensor=tensor.name))
        if tensor.name != tensor.tensor:
            shape = "x".join(map(str, tensor.spec.shape))
            detail = f"from step {first} on its shape is {shape}; never differenced across, and left out of groups"
            found.append(Finding("shape_changed", "warning", detail, first, tensor.tensor))
        elif len(tensor.positions) < len(anatomy.run.commits):
            missing = len(anatomy.run.commits) - len(tensor.positions)
            detail = f"absent, or of another shape, at {missing} of {len(anatomy.run.commits)} checkpoints"
            found.append(Finding("tensor_absent", "warning", detail, tensor=tensor.name))
    return found
