"""Rows of ``drift`` and ``components`` for one scope, from its Gram matrix: pure arrays to columns."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.rolling.window_rows import Columns, ScopeHistory, concatenated
from sedarchive.gram import Gram
from sedarchive.nulls.bands import dimension_is_estimated, effective_dimension
from sedarchive.nulls.drifts import ShareNull, share_nulls
from sedarchive.rolling.drift import (
    BACKBONE_KINDS,
    KINDS,
    Backbone,
    Components,
    Displacements,
    Kind,
    backbone,
    components,
    displacements,
)

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]
Flags = NDArray[np.bool_]


def scope_rows(name: str, gram: Gram, history: ScopeHistory) -> dict[str, Columns]:
    """Rows of both tables for the scope of that name."""
    if gram.bandwidth < gram.n_updates - 1:
        found = _banded(history)
    else:
        moved = displacements(gram.updates(0, gram.n_updates))
        found = _ScopeDrift(gram, moved, history).rows()
    return {table: {"scope": np.full(len(columns["kind"]), name), **columns} for table, columns in found.items()}


def _banded(history: ScopeHistory) -> dict[str, Columns]:
    """One row a kind, of the last checkpoint, where the stored band does not reach from the first to the last."""
    steps, nothing = history.steps[[0, -1]], np.full(1, np.nan)
    status = np.array(["banded"])
    none = Backbone(nothing, nothing, nothing)
    first, last = steps[:1], steps[1:]
    return {
        "drift": concatenated([_drift_columns(kind, first, last, nothing, none, status) for kind in BACKBONE_KINDS]),
        "components": concatenated([_component_columns(kind, steps, nothing, None, status) for kind in KINDS]),
    }


@dataclass(frozen=True)
class _ScopeDrift:
    """Everything that the rows of one scope come from."""

    gram: Gram
    moved: Displacements
    history: ScopeHistory

    def rows(self) -> dict[str, Columns]:
        """Rows of both tables; of a run of one checkpoint it has no components."""
        return {
            "drift": concatenated([self._drift(kind) for kind in BACKBONE_KINDS]),
            "components": concatenated([self._components(kind) for kind in KINDS]),
        }

    @cached_property
    def _found(self) -> dict[Kind, Components]:
        return {kind: components(self.moved, kind) for kind in KINDS}

    @cached_property
    def _nulls(self) -> dict[Kind, ShareNull]:
        """Nulls by kind; none where nothing moves, a displacement is unknown, or the updates are too few."""
        if self._few_updates or not self.moved.whole or not self.moved.length.any():
            return {}
        norms = np.sqrt(np.diagonal(self.gram.updates(0, self.gram.n_updates)))
        p_eff = effective_dimension(self.gram, self.history.n_elements)
        return share_nulls(norms, p_eff, {kind: one.shares for kind, one in self._found.items()})

    @cached_property
    def _few_updates(self) -> bool:
        return not dimension_is_estimated(self.gram)

    def _drift(self, kind: Kind) -> Columns:
        first = self.history.steps[:1]
        found = backbone(self.moved, kind, self._found[kind].first)
        status = self._drift_status(found)
        return _drift_columns(kind, first, self.history.steps, self.moved.length, found, status)

    def _drift_status(self, found: Backbone) -> NDArray[np.str_]:
        still = self.moved.length == 0
        lost = np.isnan(found.residual) & ~still
        causes = {self._unknown: np.full(len(still), bool(self._unknown)), "zero": still, "unresolved": lost}
        causes |= self._doubts
        return np.select(list(causes.values()), list(causes), "ok")

    def _components(self, kind: Kind) -> Columns:
        shares, null = self._found[kind].shares, self._nulls.get(kind)
        no_null = np.isnan(shares if null is None else null.p)
        still = not self.moved.length.any()
        causes = {self._unknown: np.full(len(shares), bool(self._unknown)), "zero": np.full(len(shares), still)}
        causes |= {"few_updates": np.full(len(shares), self._few_updates), "few_dimensions": no_null}
        causes |= {name: np.full(len(shares), flags.any()) for name, flags in self._doubts.items()}
        status = np.select(list(causes.values()), list(causes), "ok")
        return _component_columns(kind, self.history.steps[[0, -1]], shares, null, status)

    @property
    def _unknown(self) -> str:
        """Why the displacements are not all known; empty if they are."""
        return "" if self.moved.whole else "absent" if self.history.absent.any() else "nonfinite"

    @property
    def _doubts(self) -> dict[str, Flags]:
        """What is wrong with each checkpoint (T,), the gravest first."""
        history = self.history
        changed = np.concatenate([[False], history.dtype_border])
        return {
            "incomplete": np.full(len(history.steps), history.incomplete),
            "duplicate": history.duplicate,
            "suspect": history.suspect,
            "dtype_changed": np.logical_or.accumulate(changed),
        }


def _drift_columns(
    kind: Kind, reference: Steps, steps: Steps, length: Floats, found: Backbone, status: NDArray[np.str_]
) -> Columns:
    return {
        "kind": np.full(len(steps), kind),
        "reference_step": np.repeat(reference, len(steps)),
        "step": steps,
        "displacement": length,
        "backbone_coordinate": found.coordinate,
        "residual": found.residual,
        "backbone_share": found.share,
        "status": status,
    }


def _component_columns(
    kind: Kind, span: Steps, shares: Floats, null: ShareNull | None, status: NDArray[np.str_]
) -> Columns:
    count, unknown = len(shares), np.full(len(shares), np.nan)
    return {
        "kind": np.full(count, kind),
        "step_from": np.repeat(span[:1], count),
        "step_to": np.repeat(span[1:], count),
        "k": np.arange(1, count + 1),
        "share": shares,
        "share_null": null.median if null else unknown,
        "null_low": null.low if null else unknown,
        "null_high": null.high if null else unknown,
        "p": null.p if null else unknown,
        "status": status,
    }
