"""A database with planted answers: lags, waves, a power law, an edge. No weights are involved."""

from dataclasses import dataclass, replace

import numpy as np
from series import autoregressive

from sedarchive.compute.couplings.coupling_inputs import read_inputs
from sedarchive.compute.couplings.coupling_scans import coupling_rows
from sedarchive.compute.couplings.edge_couplings import COLUMNS
from sedarchive.compute.couplings.edge_inputs import EdgeSeries
from sedarchive.compute.couplings.group_couplings import group_rows
from sedarchive.compute.couplings.phase_couplings import phase_coupling_rows
from sedarchive.compute.couplings.preset_rows import preset_rows
from sedarchive.compute.lifecycle.importance_rows import store_importance
from sedarchive.compute.lifecycle.lifecycle import store_lifecycle
from sedarchive.compute.lifecycle.scaling_rows import store_scaling
from sedarchive.compute.row_columns import columns_of
from sedarchive.nulls.drifts import share_nulls
from sedarchive.presets import XU2026
from sedarchive.rolling.drift import BACKBONE_KINDS, backbone, components, displacements
from sedarchive.rolling.drift import KINDS as DRIFT_KINDS

SPACING = 100
"""Steps between the checkpoints of the planted runs."""
N_CHECKPOINTS = 61
LEAD = 3
WAVE_SLOWNESS = 130.0
EXPONENT = 0.26
PEAK = 0.36
PEAK_OLS = 0.64
"""Where alpha_ols of the same run has its peak."""
TAU_RANK, TAU_ALPHA = 200.0, 700.0
REST_ALPHA = np.array([0.30, 0.38, 0.42, 0.40, 0.33, 0.25])
"""Alpha that each layer of the planted timescales comes to rest at."""


@dataclass(frozen=True)
class LagRun:
    """A run whose edge ratio, seen from a window's end or centre, is a logged signal some checkpoints later."""

    name: str
    window_sizes: tuple[int, ...] = (10,)
    lead: int = LEAD
    seen_from: str = "end"
    n_checkpoints: int = N_CHECKPOINTS
    kind: str = "signal"
    sign: int = -1
    irregular: bool = False
    logged: bool = True
    log_every: int = SPACING // 4


LAG_RUNS = (
    LagRun("lead_end", (10, 20)),
    LagRun("lead_centre", (4, 5, 10), seen_from="centre"),
    LagRun("delay_flip", (4, 10), seen_from="centre"),
    LagRun("sparse_log", (5,), seen_from="centre", log_every=2 * SPACING),
    LagRun("same_sign", lead=0, sign=1),
    LagRun("lead_too_far", lead=10),
    LagRun("straight", kind="line"),
    LagRun("short", n_checkpoints=16),
    LagRun("silent", logged=False),
    LagRun("uneven", irregular=True),
)


def signal(place):
    """A smooth series without a period of its own; ``place`` in checkpoints, may be fractional."""
    place = np.asarray(place, dtype=float)
    return np.sin(0.9 * place) + np.sin(1.7 * place + 1) + np.sin(0.37 * place + 2)


def window_ends(run, window_size):
    return np.arange(window_size, run.n_checkpoints)


def edge_ratios(run, window_size):
    """Edge ratio of each window: the signal ``lead`` checkpoints later, of one sign, on a slope."""
    ends = window_ends(run, window_size)
    if run.kind == "line":
        return 1.5 + 0.01 * ends
    seen = ends - (window_size / 2 if run.seen_from == "centre" else 0)
    return 1.5 + run.sign * 0.1 * signal(seen + run.lead) + 0.02 * ends


def val_losses(run):
    """Steps and values of the log: the signal on a falling slope."""
    steps = np.arange(0, (run.n_checkpoints - 1) * SPACING + 1, run.log_every)
    return steps, 4.0 + 0.2 * signal(steps / SPACING) - 1e-4 * steps


def plant_lags(db):
    for run in LAG_RUNS:
        db.replace("runs", {"run": run.name}, {"n_checkpoints": run.n_checkpoints})
        indices = np.arange(run.n_checkpoints)
        db.replace("checkpoints", {"run": run.name}, {"step": indices * SPACING, "checkpoint_index": indices})
        steps, values = val_losses(run)
        name = "val_loss" if run.logged else "train_acc"
        log = {"step": steps, "name": name, "value": values, "source": "log.jsonl"}
        db.replace("metrics", {"run": run.name}, log)
        for window_size in run.window_sizes:
            ends = window_ends(run, window_size)
            columns = {
                "step": ends * SPACING,
                "step_first": (ends - window_size) * SPACING,
                "step_centre": (ends - window_size / 2) * SPACING,
                "edge_ratio": edge_ratios(run, window_size),
                "irregular": run.irregular,
                "status": "ok",
            }
            db.replace("windows", {"run": run.name, "scope": "all", "window_size": window_size}, columns)


def plant_couplings(db, draws=99):
    for run in LAG_RUNS:
        steps = [at * SPACING for at in range(run.n_checkpoints)]
        inputs = read_inputs(db, run.name, steps, run.window_sizes, ["all"], draws)
        for columns in coupling_rows(inputs):
            db.insert("couplings", {"run": run.name, **columns})


def plant_preset(db):
    """What the authors' preset says of planted leads: the signal is the second ratio."""
    for run in LAG_RUNS[:3]:
        steps = [at * SPACING for at in range(run.n_checkpoints)]
        metrics = read_inputs(db, run.name, steps, [], [], 99).metrics
        spans = {("derivative", "rise"): (0, 20), ("derivative", "plateau"): (20, 40)}
        edges = [EdgeSeries("all", size, 2, edge_ratios(run, size), spans, False) for size in run.window_sizes]
        layers = [replace(edge, scope=f"layer:{at}", ratio=edge.ratio + at) for at in range(2) for edge in edges]
        rows = preset_rows(XU2026, edges, metrics) + phase_coupling_rows(edges, metrics) + group_rows(layers, metrics)
        db.insert("couplings", {"run": run.name, **columns_of(rows, COLUMNS)})


def plant_wave(db, run, arrivals, steps=range(0, 2001, 50), depth=0.6):
    """Each layer's compression ramps linearly over 200 steps to ``depth``, half of it at its arrival."""
    for layer, arrival in enumerate(arrivals):
        steps = np.array(steps)
        compression = depth * np.clip((steps - arrival + 100) / 200, 0, 1)
        for role, start in (("query", 80.0), ("value", 120.0)):
            columns = {
                "step": steps,
                "layer": layer,
                "role": role,
                "n_rows": 256,
                "n_cols": 256,
                "stable_rank": start * (1 - compression),
                "entropy": 5.0 - compression,
                "alpha": 0.2 + 0.1 * layer * compression,
                "status": "ok",
            }
            db.replace("matrix_stats", {"run": run, "matrix": f"blocks.{layer}.{role}"}, columns)


def plant_asymmetry(db, n_layers=12):
    """Last compressions of query and key that spread three times as much over depth; an inverted U of alpha."""
    rng = np.random.default_rng(3)
    for role, spread in (("query", 0.09), ("key", 0.09), ("value", 0.03), ("output", 0.03)):
        last = 0.5 + spread * rng.standard_normal(n_layers)
        for layer in range(n_layers):
            hump, hump_ols = (
                0.4 - 0.5 * (layer / (n_layers - 1) - peak) ** 2 + 0.004 * rng.standard_normal()
                for peak in (PEAK, PEAK_OLS)
            )
            columns = {
                "step": [0, 1000],
                "layer": layer,
                "role": role,
                "n_rows": 64,
                "n_cols": 64,
                "stable_rank": [20.0, 20.0 * (1 - last[layer])],
                "entropy": [4.0, 3.5],
                "alpha": [0.2, hump],
                "alpha_ols": [0.2, hump_ols],
                "status": "ok",
            }
            db.replace("matrix_stats", {"run": "asymmetry", "matrix": f"blocks.{layer}.{role}"}, columns)


def plant_waves(db):
    plant_wave(db, "wave", 300 + WAVE_SLOWNESS * np.arange(6))
    plant_wave(db, "wave_of_three", 300 + WAVE_SLOWNESS * np.arange(3))
    plant_wave(db, "wave_of_two", 300 + WAVE_SLOWNESS * np.arange(2))
    plant_wave(db, "wave_without_start", 300 + WAVE_SLOWNESS * np.arange(6), steps=range(50, 2001, 50))
    plant_wave(db, "wave_at_once", np.full(6, 500.0))
    plant_wave(db, "wave_none", 300 + WAVE_SLOWNESS * np.arange(6), depth=0.01)
    plant_timescales(db, "rest_shared", np.full(6, 30.0))
    plant_timescales(db, "rest_free", 20.0 + 4.0 * np.arange(6))


def plant_timescales(db, run, rests, seed=4):
    """Stable ranks that fall from 80 to their rests, one layer after the other; alphas that rise from 0.1."""
    rng, steps = np.random.default_rng(seed), np.arange(0, 4001, 50)
    for layer, (rest, alpha) in enumerate(zip(rests, REST_ALPHA, strict=True)):
        after = np.maximum(steps - 200 - 40 * layer, 0)
        columns = {
            "step": steps,
            "layer": layer,
            "role": "query",
            "n_rows": 256,
            "n_cols": 256,
            "stable_rank": rest
            + (80 - rest) * np.exp(-after / TAU_RANK)
            + 0.4 * autoregressive(rng, len(steps), 0.5)[0],
            "entropy": 5.0,
            "alpha": alpha
            + (0.1 - alpha) * np.exp(-steps / TAU_ALPHA)
            + 0.004 * autoregressive(rng, len(steps), 0.5)[0],
            "status": "ok",
        }
        db.replace("matrix_stats", {"run": run, "matrix": f"blocks.{layer}.query"}, columns)


def plant_dissociation(db, n_layers=12, n=80):
    """A wave of compression that ends deeper in the last layers, an alpha gradient that grows; and a run of noise.

    The loss falls in both, and in the first also where alpha rises.
    """
    rng, steps = np.random.default_rng(5), 50 * np.arange(n)
    wobble = autoregressive(rng, n, 0.5, 3)
    for run, shown in (("dissociated", -wobble[0]), ("even", wobble[1])):
        loss = 2 + 3 * np.exp(-steps / 500) + 0.1 * shown + 0.03 * wobble[2]
        db.replace("metrics", {"run": run}, {"step": steps, "name": "val_loss", "value": loss, "source": "log"})
    for layer in range(n_layers):
        depth = layer / (n_layers - 1)
        compressed = (0.5 + 0.12 * depth) / (1 + np.exp(-(steps - 600 - 900 * depth) / 120))
        for run, share in (("dissociated", 1), ("even", 0)):
            noise = autoregressive(rng, n, 0.5, 2)
            columns = {
                "step": steps,
                "layer": layer,
                "role": "query",
                "n_rows": 256,
                "n_cols": 256,
                "stable_rank": (80 + noise[0]) * (1 - share * compressed),
                "entropy": 5.0 - share * 0.1 * depth - 0.001 * noise[1],
                "alpha": 0.3 + 0.01 * (noise[1] + wobble[0]) + share * 0.15 * depth * (1 - np.exp(-steps / 2000)),
                "status": "ok",
            }
            db.replace("matrix_stats", {"run": run, "matrix": f"blocks.{layer}.query"}, columns)


def plant_scaling(db):
    """Three families of runs; the spread of alpha over the layers at the last step is 0.1 n_layers^0.26."""
    for family, depths in (("ladder", (4, 8, 12, 16, 24)), ("triple", (8, 12, 16)), ("pair", (8, 8, 16))):
        for index, depth in enumerate(depths):
            run = f"{family}_{index}"
            db.replace("runs", {"run": run}, {"family": family, "n_layers": depth, "n_parameters": depth**2})
            layers = np.tile(np.arange(depth), 2)
            last = np.repeat([False, True], depth)
            alpha = 0.3 + np.where(last, 0.1 * depth**EXPONENT, 7.0) * layers / (depth - 1)
            columns = {
                "step": np.where(last, 900, 0),
                "matrix": [f"{layer}.query" for layer in layers],
                "layer": layers,
                "role": "query",
                "alpha": alpha,
                "stable_rank": 100.0 - last * depth,
                "status": "ok",
            }
            db.replace("matrix_stats", {"run": run}, columns)


def plant_laws(db):
    """What follows from the metrics of all runs."""
    for (run,) in db.rows("SELECT DISTINCT run FROM matrix_stats").rows:
        store_lifecycle(db, run)
    store_scaling(db)
    layers = {"layer": range(12), "importance": [float(layer % 5) for layer in range(12)]}
    db.replace("layer_importance", {"run": "asymmetry", "metric": "loss"}, {k: list(v) for k, v in layers.items()})
    store_importance(db)


def plant_edge(db):
    """Windows whose second ratio is the edge; the first of three is inside its null."""
    step = np.array([1000, 1100, 1200])
    edge = {
        "step": step,
        "edge_ratio": [1.2, 2.0, 3.0],
        "edge_k": [2, 2, 2],
        "edge_ratio_null": 1.15,
        "edge_ratio_null_high": 1.25,
        "edge_ratio_p": [0.2, 0.001, 0.001],
        "signal_rank": [None, 2, 2],
        "gap": [float("nan"), 4.0, 6.0],
        "status": "ok",
    }
    for scope, window_size in (("all", 10), ("all", 5), ("trunk", 10)):
        db.replace("windows", {"run": "edge", "scope": scope, "window_size": window_size}, edge)
    k = np.tile(np.arange(1, 4), 3)
    ratio = np.where(k == 2, np.repeat([1.2, 2.0, 3.0], 3), 1.1)
    ratio[k == 3] = np.nan
    columns = {"step": np.repeat(step, 3), "k": k, "ratio": ratio, "ratio_null_low": 1.05, "ratio_null_high": 1.25}
    db.replace("window_sigmas", {"run": "edge", "scope": "all", "window_size": 10}, columns)


def plant_thesis(db):
    """Two windows with all that the recipes of the Thesis show, and fits of a gap that returns to 5."""
    db.replace("runs", {"run": "muon"}, {"optimizer": "Muon"})
    where = {"run": "muon", "scope": "all", "window_size": 10}
    windows = {
        "step": [1000, 1100, 1200],
        "signal_rank": [1, 1, 2],
        "signal_rank_mp": [3, 3, 3],
        "gap": [4.0, 5.0, None],
        "lr": 0.01,
        "lr_sum": 1.0,
        "adiabatic_free": [0.05, 20.0, None],
        "adiabatic_interval": [0.05, 20.0, None],
        "adiabatic_step": [5.0, 2000.0, None],
        "subspace_angle": [None, 0.2, 0.4],
        "subspace_angle_dk": [None, 0.3, 1.5],
        "status": "ok",
    }
    db.replace("windows", where, windows)
    sigmas = {
        "step": np.repeat([1000, 1100, 1200], 5),
        "k": np.tile(np.arange(1, 6), 3),
        "sigma": [6.0, 2.0, 1.0, 0.5, 0.1, 7.0, 2.0, 1.0, 0.5, 0.1, 5.0, np.nan, np.nan, np.nan, np.nan],
        "overlap_previous": 0.9,
        "gradient_share": np.tile([0.25, 0.5, 1.0, np.nan, np.nan], 3),
        "decay_alignment": np.tile([-0.5, 0.5, np.nan, np.nan, np.nan], 3),
        "status": "ok",
    }
    db.replace("window_sigmas", where, sigmas)
    fits = {
        "fit": ["gap_flow", "gap_flow", "alpha_feedback", "alpha_feedback", *["gap_maximality"] * 3],
        "parameter": ["damping", "viable_gap", "peak_r", "peak_lag", *["r"] * 3],
        "k": [1, 1, 1, 1, 1, 2, 3],
        "estimate": [0.01, 5.0, -0.6, -2.0, 0.8, -0.1, None],
        "p": [0.005, None, 0.04, None, 0.01, 0.9, None],
        "status": ["ok"] * 6 + ["unknown"],
    }
    db.replace("fits", where, fits)


def plant_history(db):
    db.replace("runs", {"run": "seen"}, {"architecture": "gpt2", "n_parameters": 1000, "n_layers": 2})
    db.replace("checkpoints", {"run": "seen"}, {"step": [0, 50, 100], "checkpoint_index": [0, 1, 2]})
    db.replace("tensors", {"run": "seen"}, {"tensor": ["a", "b"]})
    log = {"name": ["val_loss", "lr", "val_loss"], "step": [0, 0, 50], "value": [3.0, 0.1, 2.0]}
    db.replace("metrics", {"run": "seen"}, log)
    db.replace("audit", {"run": "seen"}, {"severity": ["warning", "error", "warning"], "check_name": "planted"})


def plant_projections(db):
    """Ratios of two projections to 100 dimensions, the second of them outside its band."""
    rows = {"run": "edge", "scope": "all", "window_size": 10, "dimension": 100, "seed": [0, 1], "quantity": "ratio_1"}
    band = {"error_simulated": 0.08, "error_low": 0.03, "error_high": 0.15, "n": 40, "status": "ok"}
    db.insert("projections", {**rows, "error": [0.07, 0.2], "error_max": [0.3, 0.5], **band})


def plant_drift(db):
    """A run whose updates have a direction in common, beside random walks of the same norms."""
    rng = np.random.default_rng(7)
    updates = rng.standard_normal((20, 60)) + 0.7 * rng.standard_normal(60)
    moved = displacements(updates @ updates.T)
    found = {kind: components(moved, kind) for kind in DRIFT_KINDS}
    nulls = share_nulls(np.linalg.norm(updates, axis=1), 60, {kind: one.shares for kind, one in found.items()})
    span = {"run": "drifting", "scope": "all", "step_from": 0, "step_to": 2000, "status": "ok"}
    for kind, one in found.items():
        null = {"share_null": nulls[kind].median, "null_low": nulls[kind].low, "null_high": nulls[kind].high}
        db.insert(
            "components", {**span, "kind": kind, "k": np.arange(1, 6), "share": one.shares, **null, "p": nulls[kind].p}
        )
    for kind in BACKBONE_KINDS:
        line = backbone(moved, kind, found[kind].first)
        along = {"backbone_coordinate": line.coordinate, "residual": line.residual, "backbone_share": line.share}
        where = {"run": "drifting", "scope": "all", "kind": kind, "reference_step": 0}
        status = np.where(moved.length > 0, "ok", "zero")
        db.insert(
            "drift", {**where, "step": np.arange(0, 2001, 100), "displacement": moved.length, **along, "status": status}
        )


def plant_phases(db):
    """A run that rises to step 1500, stays to 3000 and collapses at 3500; another has no signal rank."""
    shared = {"scope": "all", "window_size": 10}
    phases = {
        "phase": ["rise", "plateau", "collapse"],
        "step_from": [1000, 1500, 3000],
        "step_to": [1500, 3000, 5000],
        "threshold": 0.85,
        "peak_ratio": 1.9,
        "null_peak_ratio": 1.2,
        "null_share": 0.4,
        "null_walks": 49,
        "status": "ok",
    }
    for k, method, is_modal in ((1, "peak", False), (2, "peak", True), (2, "threshold", True)):
        where = {"run": "phased", **shared, "k": k, "method": method}
        db.replace("phases", where, {"is_modal": is_modal, **phases})
    db.replace("phases", {"run": "rankless", **shared, "k": 1, "method": "peak"}, {"is_modal": False, **phases})
    rows = (
        ("collapse", 2, "tau=1.20", True, 3500),
        ("collapse", 2, "tau=1.20", False, 3400),
        ("collapse", 2, "tau=1.30", True, 3300),
        ("collapse", 1, "tau=1.20", True, 4000),
        ("stabilisation", 2, "tau=1.20", True, 3900),
        ("stabilisation", None, "any time", True, 2500),
        ("shift", None, "self-normalised CUSUM", False, 3100),
    )
    names = ("event", "k", "method", "causal", "step")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    db.replace("events", {"run": "phased"}, {**shared, **columns, "status": "ok"})
    grok = {"run": "phased", "event": "grok", "method": "3 x >= 0.98", "causal": False, "step": 4500, "status": "ok"}
    db.insert("events", {name: [value] for name, value in grok.items()})


def plant_everything(db):
    with db.transaction():
        plant_lags(db)
        plant_couplings(db)
        plant_preset(db)
        plant_waves(db)
        plant_asymmetry(db)
        plant_dissociation(db)
        plant_scaling(db)
        plant_laws(db)
        plant_edge(db)
        plant_projections(db)
        plant_drift(db)
        plant_thesis(db)
        plant_history(db)
        plant_phases(db)
