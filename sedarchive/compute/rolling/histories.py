"""What the rows of a scope need to know of its history, from the records of the archive."""

from collections.abc import Sequence

import numpy as np

from sedarchive.audit import Evidence, marked
from sedarchive.compute.rolling.window_rows import ScopeHistory
from sedarchive.leaves import Scope
from sedarchive.rolling.logged import Logged
from sedarchive.sweeps.anatomy import Anatomy


def scope_history(anatomy: Anatomy, scope: Scope, audit: Sequence[Evidence], logged: Logged) -> ScopeHistory:
    """Steps, logs, absences, dtype borders of a scope, and its checkpoints that the audit has marked."""
    n_steps = len(anatomy.run.commits)
    absent, border = np.zeros(n_steps, dtype=bool), np.zeros(max(n_steps - 1, 0), dtype=bool)
    for name in dict.fromkeys(source for leaf in scope.leaves for source in leaf.sources):
        tensor = anatomy.tensors[name]
        absent |= ~np.isin(np.arange(n_steps), tensor.positions)
        if len(tensor.arrays) > 1:
            stored = [commit.tensors.get(tensor.tensor) for commit in anatomy.run.commits]
            known = anatomy.run.arrays
            dtypes = np.array([known[entry.array].spec.dtype if entry else "" for entry in stored])
            border |= dtypes[1:] != dtypes[:-1]
    tensors = frozenset(anatomy.tensors[source].tensor for leaf in scope.leaves for source in leaf.sources)
    duplicate, suspect = marked(audit, "duplicate", tensors, n_steps), marked(audit, "suspect", tensors, n_steps)
    steps = np.array(anatomy.run.steps, dtype=np.int64)
    return ScopeHistory(steps, absent, border, duplicate, suspect, logged, scope.n_elements, scope.incomplete)
