"""Rows of the tables that say what a run is: runs, checkpoints, tensors, matrices, metrics, audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sedarchive import __version__
from sedarchive.audit import merged
from sedarchive.audit.evidence import Evidence, evidence_text, read_evidence
from sedarchive.compute.requests import run_facts
from sedarchive.compute.rolling.decayed import decayed_tensors
from sedarchive.digests import canonical_digest
from sedarchive.history import Finding, Metric
from sedarchive.logs import coverage_findings
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.spectra_sweep import matrix_leaves
from sedarchive.tables import Database

Columns = dict[str, Any]
UNREADABLE = "unreadable"
"""Check name of tensors that are left out of all scopes, since they cannot be read."""
UNREADABLE_SPECTRA = "unreadable_spectra"
"""Check name of tensors whose spectra are missing, since they cannot be read."""
CATALOG = ("runs", "checkpoints", "tensors", "matrices", "metrics", "audit")


@dataclass(frozen=True)
class Audited:
    """What the audit found in the numbers per step, kept so that new windows need not read them again."""

    key: str
    """Hash of what was audited."""
    evidence: Sequence[Evidence]


def write_catalog(
    database: Database, anatomy: Anatomy, info: Mapping[str, str], findings: Sequence[Finding], audited: Audited
) -> None:
    """Replace a run's rows in the six tables, in one transaction, unless they stand as they are.

    ``info`` is what ``--runs-info`` says of the run; ``findings`` is what ``compute`` and the audit noticed, beside
    what ingest did; ``audited`` is what the audit found in the numbers per step.
    """
    run = anatomy.run
    metrics = run.metrics()
    tables = {
        "runs": _run_row(anatomy, dict(info)),
        "checkpoints": _checkpoint_rows(anatomy, metrics),
        "tensors": _tensor_rows(anatomy, findings),
        "matrices": _matrix_rows(anatomy),
        "metrics": _metric_rows(metrics),
        "audit": audit_rows([*merged(run.findings), *coverage_findings(run.steps, metrics), *findings]),
    }
    key = canonical_digest([tables, audited.key])[:16]
    standing = database.rows("SELECT key FROM computations WHERE run = ? AND table_name = 'catalog'", [run.name]).rows
    if standing == [(key,)]:
        return
    now = datetime.now(UTC)
    made = {
        "key": key,
        "digests": audited.key,
        "options": evidence_text(audited.evidence),
        "versions": f"sedarchive {__version__}",
        "started": now,
        "finished": now,
    }
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
        "decay_rule": decayed_tensors(anatomy).rule,
    }


def _checkpoint_rows(anatomy: Anatomy, metrics: Sequence[Metric]) -> Columns:
    commits = anatomy.run.commits
    logged = {(metric.name, metric.step): metric.value for metric in metrics}
    # a log counts tokens; the label of a checkpoint (step1000-tokens4B) rounds them
    tokens = [logged.get(("tokens", commit.step), commit.source.get("tokens")) for commit in commits]
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
    roles, decayed = [anatomy.roles[tensor.name] for tensor in tensors], decayed_tensors(anatomy).tensors
    rows: Columns = {
        "tensor": [tensor.name for tensor in tensors],
        "shape": ["x".join(map(str, tensor.spec.shape)) for tensor in tensors],
        "dtype": [" then ".join(tensor.dtypes) for tensor in tensors],
        "n_elements": [tensor.spec.n_elements for tensor in tensors],
        "layer": [role.layer for role in roles],
        "role": [role.role for role in roles],
        "kind": [role.kind for role in roles],
        "tied_to": [anatomy.tied_to.get(tensor.name) for tensor in tensors],
        "decays": [tensor.name in decayed for tensor in tensors],
        "skipped_reason": [unreadable.get(one.name) or anatomy.skipped_reason(one.name) for one in tensors],
    }
    products = _product_rows(anatomy, unreadable)
    return {name: [*column, *products[name]] for name, column in rows.items()}


def _product_rows(anatomy: Anatomy, unreadable: Mapping[str | None, str]) -> Columns:
    """Rows of the products among the tensors: no such tensor is stored."""
    products = anatomy.products.formed
    roles = [anatomy.product_roles[one.name] for one in products]
    described = [
        "; ".join(filter(None, (one.describe(), role.reason))) for one, role in zip(products, roles, strict=True)
    ]
    return {
        "tensor": [one.name for one in products],
        "shape": ["x".join(map(str, one.shape)) for one in products],
        "dtype": [None for _ in products],
        "n_elements": [one.n_elements for one in products],
        "layer": [role.layer for role in roles],
        "role": [role.role for role in roles],
        "kind": ["matrix" for _ in products],
        "tied_to": [None for _ in products],
        "decays": [None for _ in products],
        "skipped_reason": [unreadable.get(one.name) or text for one, text in zip(products, described, strict=True)],
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


def standing_evidence(database: Database, run: str, audit_key: str) -> list[Evidence] | None:
    """Evidence that stands in the database; None if it was found in something else."""
    sql = "SELECT options FROM computations WHERE run = ? AND table_name = 'catalog' AND digests = ?"
    return next((read_evidence(text) for (text,) in database.rows(sql, [run, audit_key]).rows), None)
