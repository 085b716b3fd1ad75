"""How a run was trained, from the settings beside its checkpoints and inside them: optimizer, rate, decay, betas."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sedarchive.errors import SedarchiveError
from sedarchive.history import Finding, Metric, RunSource
from sedarchive.readers.settings import read_settings

_FILES = (
    *("training_args.bin", "training_args.json", "hparams.yaml", "hparams.json", "train_config.json", "args.json"),
    *("train_config.yaml", "training_args.yaml"),
)
_NAMES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("optimizer", "optim", "optimizer_name", "optimizer_type"),
    "lr": ("learning_rate", "lr", "max_lr", "peak_lr", "base_lr", "initial_lr"),
    "weight_decay": ("weight_decay", "wd"),
    "beta1": ("adam_beta1", "beta1"),
    "beta2": ("adam_beta2", "beta2"),
    "seed": ("seed",),
}
_IN_CHECKPOINTS = ("hyper_parameters", "hparams", "config", "cfg", "args")
"""Settings of a training as a checkpoint holds them: Lightning's, nanoGPT's, Megatron's."""
_TEXTS = frozenset({"optimizer"})
_SAME = 1e-6
_NAME_LIMIT = 80


def training_facts(source: RunSource, meta: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """Optimizer, lr (peak), weight_decay, beta1, beta2 and seed of a run, where anything says them.

    Asked in turn: config.json, the settings files beside the run, its last checkpoint and its logs, then what the
    checkpoint itself holds (``hyper_parameters``, ``config``, ``args``, the optimizer's parameter groups).

    Parameters
    ----------
    source
        The run as it was found.
    meta
        Plain values beside the weights of its last checkpoint that was read.

    Returns
    -------
    facts : dict
        Those that are known; ``parameter_groups`` are those of the last checkpoint's optimizer.
    findings : list of Finding
        Files that could not be read, and sources that disagree: the first one stays.
    """
    facts: dict[str, Any] = {}
    origins: dict[str, str] = {}
    findings: list[Finding] = []
    for origin, settings in _sources(source, meta, findings):
        for name, value in _facts(settings).items():
            if name not in facts:
                facts[name], origins[name] = value, origin
            elif not _same(facts[name], value):
                findings.append(_disagreement(name, (origins[name], facts[name]), (origin, value)))
    if isinstance(meta.get("parameter_groups"), list):
        facts["parameter_groups"] = meta["parameter_groups"]
    return facts, findings


def checkpoint_settings(
    optimizers: Mapping[int, Mapping[str, Any]], labels: Mapping[int, str], logged: Sequence[Metric]
) -> tuple[tuple[Metric, ...], list[Finding]]:
    """Learning rate and weight decay of the optimizers in checkpoints, at the steps where no log says them.

    Parameters
    ----------
    optimizers
        Step to the settings of that checkpoint's optimizer.
    labels
        Step to the checkpoint's name.
    logged
        Metrics of the logs, of two for a step the later: they win.

    Returns
    -------
    metrics : tuple of Metric
        Those that are missing in the logs, sorted by name and step.
    findings : list of Finding
        One for each of the two that disagrees with the logs somewhere.
    """
    known = {(metric.name, metric.step): metric.value for metric in logged}
    added, findings = [], []
    for name in ("lr", "weight_decay"):
        held = {step: float(settings[name]) for step, settings in optimizers.items() if name in settings}
        added += [Metric(name, step, held[step], labels[step]) for step in sorted(held) if (name, step) not in known]
        off = [step for step in sorted(held) if not _same(known.get((name, step), held[step]), held[step])]
        if off:
            detail = (
                f"{name} in the logs is not that of the optimizer in {len(off)} of {len(held)} checkpoints, first at "
                f"step {off[0]} ({known[name, off[0]]:g} against {held[off[0]]:g}); the logs' values stand"
            )
            findings.append(Finding("settings_disagree", "info", detail, step=off[0]))
    return tuple(added), findings


def with_training(config: Mapping[str, Any], stored: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Config with what is known of the training by now, under ``training``; ``stored`` is the one kept so far."""
    kept = dict(config)
    known = stored.get("training")
    training = (dict(known) if isinstance(known, Mapping) else {}) | dict(facts)
    return kept | {"training": training} if training else kept


def _sources(
    source: RunSource, meta: Mapping[str, Any], findings: list[Finding]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and settings of all that may say how the run was trained, the surest first."""
    if source.config:
        yield "config.json", source.config
    for path in settings_files(source):
        try:
            yield path.name if path.parent == source.folder else f"{path.parent.name}/{path.name}", read_settings(path)
        except (SedarchiveError, OSError, ValueError, RecursionError) as error:
            detail = f"{path}: it cannot be read as settings of the training ({str(error)[:200]}); passed over"
            findings.append(Finding("unreadable_settings", "info", detail))
    for key in _IN_CHECKPOINTS:
        if isinstance(meta.get(key), Mapping):
            yield f"{key} in the checkpoint", meta[key]
    if isinstance(meta.get("optimizer"), Mapping):  # its rate is that of one step; the peak is where it began
        settings = {name: value for name, value in meta["optimizer"].items() if name != "lr"}
        yield "the optimizer in the checkpoint", settings


def settings_files(source: RunSource) -> Iterator[Path]:
    """Settings files beside the run, its last checkpoint and its logs, each once; links are not followed."""
    last = source.checkpoints[-1].path
    folders = [source.folder, last if last.is_dir() else last.parent, *(log.parent for log in source.logs)]
    paths = dict.fromkeys(path for folder in dict.fromkeys(folders) for path in _candidates(folder))
    return (path for path in paths if (path.is_file() or path.is_dir()) and not path.is_symlink())


def _candidates(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in _FILES)
    if folder.name == "files":  # of a wandb run; elsewhere a config.yaml may be anything
        yield folder / "config.yaml"
    if folder.name == "metrics":  # of an MLflow run
        yield folder.parent / "params"


def _facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of one source under our names: at its top, or one level down."""
    levels = [settings, *(part for part in settings.values() if isinstance(part, Mapping))]
    found = {}
    for name, aliases in _NAMES.items():
        values = (level.get(alias) for level in levels for alias in aliases)
        known = next((value for value in values if _fits(name, value)), None)
        if known is not None:
            found[name] = known[:_NAME_LIMIT] if isinstance(known, str) else known
    betas = next((level["betas"] for level in levels if _is_pair(level.get("betas"))), None)
    return found if betas is None else {"beta1": betas[0], "beta2": betas[1]} | found


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(_fits("beta1", part) for part in value)


def _fits(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return isinstance(value, str) and value != ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if name == "seed":
        return isinstance(value, int) and abs(value) < 2**63
    return 0 <= value < 1e300


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return _plain_name(one) == _plain_name(other)
    return math.isclose(one, other, rel_tol=_SAME)


def _plain_name(value: Any) -> str:
    """Name of an optimizer without its maker: ``adamw_torch_fused`` and ``AdamW`` are one."""
    return str(value).lower().partition("_")[0].rpartition(".")[2]


def _disagreement(name: str, kept: tuple[str, Any], other: tuple[str, Any]) -> Finding:
    detail = f"{name} is {kept[1]} in {kept[0]} and {other[1]} in {other[0]}; {kept[1]} stands"
    return Finding("settings_disagree", "info", detail)
