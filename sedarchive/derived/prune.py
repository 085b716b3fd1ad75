"""Pruning: which layers each rule removes, and the checkpoint without those of one rule."""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.archive import Archive
from sedarchive.derived.depth import counts_layers, shallower
from sedarchive.derived.files import CONFIG, WEIGHTS, Output, check_free, write_config, write_weights
from sedarchive.derived.model import Stored, model_config, placed_names, stored_checkpoint
from sedarchive.errors import HistoryError, NothingMatchedError, UnknownNameError
from sedarchive.lifecycle.gradients import hump_of
from sedarchive.lifecycle.pruning import (
    BY_ALPHA,
    Core,
    Removal,
    lost_with,
    protected_ends,
    removals,
    wins_over_last,
)
from sedarchive.restore import tensor_data
from sedarchive.result import Result
from sedarchive.tables import Database
from sedarchive.words import did_you_mean, few_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PruneOptions:
    """What the user asks for."""

    k: int
    """Layers to remove."""
    rule: str = "spectral"
    """One of :data:`sedarchive.lifecycle.pruning.RULES`: which choice is written."""
    protect: int | None = None
    """Layers at each end that stay; None: 1, or 2 in models of more than 16."""
    alpha: str = "alpha"
    """Column of ``matrix_stats``."""
    seed: int = 0
    """Of the random choices; the first of them is the one that is written."""


@dataclass(frozen=True)
class PruningPlan:
    """What each rule removes from one checkpoint."""

    run: str
    step: int
    alpha_name: str
    core: Core
    alpha: Floats | None
    """Mean exponent of the matrices of each layer (L,); None if it is not known."""
    importance: Floats | None
    """Importance of each layer, from ``compute --importance`` (L,); None if it is not known."""
    removals: tuple[Removal, ...]
    stored: Stored

    def chosen(self, rule: str) -> Removal:
        """Return what a rule removes; of the random choices the first."""
        return next(one for one in self.removals if one.rule == rule)

    def kept(self, removal: Removal) -> list[int]:
        """Layers that stay."""
        return [layer for layer in range(self.core.n_layers) if layer not in removal.removed]


def plan_pruning(archive: Path, database: Path, run: str, step: int | None, options: PruneOptions) -> PruningPlan:
    """Choose layers by every rule.

    Raises
    ------
    SedarchiveError
        If there is no such run or step, its layers cannot be told apart, fewer than ``k`` may go, or the rule asked
        for needs exponents that the database does not hold.
    """
    if not database.is_file() and options.rule not in BY_ALPHA:
        return _planned(stored_checkpoint(archive, run, step, None), None, options)
    with Database.read(database, Archive(archive).archive_id) as tables:
        return _planned(stored_checkpoint(archive, run, step, tables), tables, options)


def _planned(stored: Stored, tables: Database | None, options: PruneOptions) -> PruningPlan:
    layers = {one.layer for one in placed_names(stored).values()} - {None}
    protect = protected_ends(len(layers)) if options.protect is None else options.protect
    core = Core(len(layers), protect, options.k)
    if options.k > len(core.layers):
        raise HistoryError(
            f"{stored.describe()}: of its {len(layers)} layers {len(core.layers)} may go with {protect} protected at "
            f"each end, and {options.k} are to be removed; take a smaller -k or --protect"
        )
    alpha = None if tables is None else exponents(tables, stored, options.alpha, len(layers))
    if alpha is None and options.rule in BY_ALPHA:
        raise NothingMatchedError(_no_exponents(tables, stored, options.alpha))
    importance = None if tables is None else _importance(tables, stored, len(layers))
    found = tuple(removals(core, alpha, options.seed))
    return PruningPlan(stored.run.name, stored.commit.step, options.alpha, core, alpha, importance, found, stored)


def exponents(tables: Database, stored: Stored, name: str, n_layers: int) -> Floats | None:
    """Mean exponent of the matrices of each layer (L,); None unless every layer has one.

    Raises
    ------
    UnknownNameError
        If ``matrix_stats`` has no such exponent.
    """
    known = _exponent_names(tables)
    if name not in known:
        raise UnknownNameError(
            f"there is no exponent {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
        )
    sql = (
        f"SELECT layer, avg({name}) AS alpha FROM matrix_stats "
        "WHERE run = ? AND step = ? AND layer BETWEEN 0 AND ? AND role <> 'other' GROUP BY layer"
    )
    alpha = np.full(n_layers, np.nan)
    for layer, value in tables.rows(sql, [stored.run.name, stored.commit.step, n_layers - 1]).rows:
        alpha[layer] = math.nan if value is None else value
    return alpha if np.isfinite(alpha).all() else None


def _importance(tables: Database, stored: Stored, n_layers: int) -> Floats | None:
    """Importance of each layer (L,) by the first measure given of the run; None unless every layer has it."""
    sql = (
        "SELECT layer, importance FROM layer_importance WHERE run = $1 AND layer BETWEEN 0 AND $2 "
        "AND metric = (SELECT min(metric) FROM layer_importance WHERE run = $1)"
    )
    found = np.full(n_layers, np.nan)
    for layer, value in tables.rows(sql, [stored.run.name, n_layers - 1]).rows:
        found[layer] = value
    return found if np.isfinite(found).all() else None


def _exponent_names(tables: Database) -> list[str]:
    """Columns of ``matrix_stats`` that are exponents: those whose status stands beside them."""
    columns = [row[1] for row in tables.describe().rows if row[0] == "matrix_stats"]
    return [name for name in columns if name.startswith("alpha") and f"{name}_status" in columns]


def _no_exponents(tables: Database | None, stored: Stored, name: str) -> str:
    sql = f"SELECT DISTINCT step FROM matrix_stats WHERE run = ? AND {name} IS NOT NULL ORDER BY step"
    steps = [str(row[0]) for row in tables.rows(sql, [stored.run.name]).rows] if tables else []
    held = f"it holds those of step {few_of(steps[-3:])}" if steps else "`sedarchive compute` makes them"
    return f"{stored.describe()}: the database lacks {name} of some or all layers; {held}"


def plan_table(plan: PruningPlan) -> Result:
    """One row for each choice: its layers, how many lie in each zone, mean exponent, summed importance.

    Of random draws that remove the same layers one is shown.
    """
    columns = ["rule", "draw", "removed", "early", "middle", "late", "mean_alpha", "importance"]
    types = ["VARCHAR", "BIGINT", "VARCHAR", "BIGINT", "BIGINT", "BIGINT", "DOUBLE", "DOUBLE"]
    rows = []
    for one in {(one.rule, one.removed): one for one in reversed(plan.removals)}.values():
        zones = [sum(layer in zone for layer in one.removed) for zone in plan.core.zones]
        mean = None if plan.alpha is None else float(plan.alpha[list(one.removed)].mean())
        lost = None if plan.importance is None else lost_with(plan.importance, one)
        rows.append((one.rule, one.draw, " ".join(map(str, one.removed)), *zones, mean, lost))
    return Result(columns, types, rows[::-1])


def better_than_last(plan: PruningPlan) -> list[int] | None:
    """Every k at which the spectral rule loses less importance than Last-N; None without exponents or importance."""
    if plan.alpha is None or plan.importance is None:
        return None
    return wins_over_last(plan.core, plan.alpha, plan.importance)


def plan_json(plan: PruningPlan) -> dict[str, Any]:
    """Everything in the plan, as JSON has it."""
    alpha = None if plan.alpha is None else plan.alpha.tolist()
    return {
        "run": plan.run,
        "step": plan.step,
        "n_layers": plan.core.n_layers,
        "k": plan.core.k,
        "protect": plan.core.protect,
        "zones": [list(zone) for zone in plan.core.zones],
        "most_a_zone": plan.core.most_a_zone,
        "alpha_name": plan.alpha_name,
        "alpha": alpha,
        "peak_layer": None if plan.alpha is None else int(plan.alpha.argmax()),
        "shape": None if plan.alpha is None else hump_of(plan.alpha).shape,
        "better_than_last": better_than_last(plan),
        "plans": [{"rule": one.rule, "draw": one.draw, "removed": list(one.removed)} for one in plan.removals],
    }


def describe(plan: PruningPlan) -> str:
    """The plan in one line."""
    core, alpha = plan.core, plan.alpha
    said = f"{plan.run}, step {plan.step}: {core.k} of {core.n_layers} layers, {core.protect} protected at each end"
    said += f", at most {core.most_a_zone} a zone"
    if alpha is None:
        return said
    peak = int(alpha.argmax())
    position = peak / max(core.n_layers - 1, 1)
    better = better_than_last(plan)
    if better is not None:
        told = f"at k = {' '.join(map(str, better))}" if better else "at no k"
        said += f"; by the importance given, the spectral rule loses less than the last layers {told}"
    return f"{said}; {plan.alpha_name} peaks in layer {peak} (at {position:.2f} of the depth, {hump_of(alpha).shape})"


def write_pruned(plan: PruningPlan, removal: Removal, folder: Path, force: bool = False) -> list[Path]:
    """Write the checkpoint without some layers: the others renumbered, the config adjusted, all bits as they were.

    Parameters
    ----------
    plan
        Of the checkpoint.
    removal
        Layers to leave out.
    folder
        Made where it is missing.
    force
        Whether files that exist are replaced.

    Returns
    -------
    list of Path
        Files written: the weights, and the config if the archive has one.

    Raises
    ------
    HistoryError
        If the config contradicts the checkpoint, or cannot tell a model with gaps.
    SedarchiveError
        If a file exists and may not be replaced.
    DamagedArchiveError
        If the archive's bytes fail their digests; nothing is left then.
    """
    stored, kept = plan.stored, plan.kept(removal)
    config = model_config(stored.run.config)
    has_config = counts_layers(config)
    config = shallower(config, plan.core.n_layers, kept)
    weights, settings = folder / WEIGHTS, folder / CONFIG
    written = [weights, settings] if has_config else [weights]
    check_free(written, force)
    origin = {"run": plan.run, "step": plan.step, "rule": removal.rule, "removed": list(removal.removed)}
    write_weights(weights, _renumbered(stored, kept), origin)
    if has_config:
        write_config(settings, config)
    return written


def _renumbered(stored: Stored, kept: list[int]) -> list[Output]:
    """Tensors that stay, under their new names; the parts of a fused tensor go or stay with it."""
    new_index = {layer: at for at, layer in enumerate(kept)}
    outputs = []
    for name, place in placed_names(stored).items():
        if place.layer is not None and place.layer not in new_index:
            continue
        told = place.bare if place.layer is None else place.with_layer(new_index[place.layer])
        data = partial(tensor_data, stored.run, stored.commit, name)
        outputs.append(Output(replace(stored.specs[name], name=told), data))
    return outputs
