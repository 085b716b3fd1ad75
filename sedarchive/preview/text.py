"""A plan in lines for people: a title for each run, and below it one thing a row, wrapped to the terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from sedarchive.history import Finding
from sedarchive.preview.model import ModelPlan, TensorGroup
from sedarchive.preview.plan import IngestPlan, RunPlan
from sedarchive.preview.runlogs import LogPlan
from sedarchive.preview.strays import PassedOver
from sedarchive.sizes import format_size
from sedarchive.words import counted, few_of

_LABEL = 15
_WIDEST, _NARROWEST = 120, 60
_FINDINGS = 5
"""Lines of findings of one severity that a run shows; --json has all."""
_SEVERITIES = {"error": "error", "warning": "warning", "info": "note"}

_JOINED = "\u00a0"
"""A blank at which no line is broken."""
Row = tuple[str, str]
"""Label and text."""


def plan_text(plan: IngestPlan, width: int) -> str:
    """Lines for people.

    Parameters
    ----------
    plan
        The plan.
    width
        Columns of the terminal; names that are longer are not cut.
    """
    width = min(max(width, _NARROWEST), _WIDEST)
    blocks = [_wrapped(_summary(plan), width, "")]
    said = {run.run: _finding_rows(run) for run in plan.runs}
    common = _said_of_several(said)
    for at, run in enumerate(plan.runs):
        rows = [*_run_rows(run, plan.runs[:at]), *(row for row in said[run.run] if row not in common)]
        blocks.append([*_wrapped(_title(run), width, "  "), *_lines(rows, width)])
    rest = [(label, f"{few_of(runs)}: {text}") for (label, text), runs in common.items()]
    rest += [("passed over", _passed_over(group)) for group in plan.passed_over]
    rest += [("stops it", text) for text in plan.obstacles]
    return "\n\n".join("\n".join(lines) for lines in [*blocks, list(_lines(rest, width, ""))] if lines)


def _said_of_several(said: Mapping[str, Sequence[Row]]) -> dict[Row, list[str]]:
    """Findings that several runs share, with the names of these: they are shown once, below all runs."""
    runs: dict[Row, list[str]] = {}
    for run, rows in said.items():
        for row in rows:
            runs.setdefault(row, []).append(run)
    return {row: names for row, names in runs.items() if len(names) > 1}


def _lines(rows: Sequence[Row], width: int, indent: str = "  ") -> Iterator[str]:
    """Rows as lines; of equal labels the first is shown."""
    before = ""
    for label, text in rows:
        first = (indent + ("" if label == before else label)).ljust(_LABEL)
        yield from _wrapped(text, width, " " * _LABEL, first)
        before = label


def _wrapped(text: str, width: int, indent: str, first: str = "") -> list[str]:
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_JOINED, " ") for line in lines] or [first.rstrip()]


def _summary(plan: IngestPlan) -> str:
    known = sum(run.archived for run in plan.runs)
    also = f" ({known} are there already)" if known else ""
    free = f"; {format_size(plan.disk_free)} are free" if plan.disk_free is not None else ""
    return (
        f"{counted(len(plan.runs), 'run')}, {counted(plan.new_checkpoints, 'checkpoint')} to add{also}: about "
        f"{format_size(plan.disk_bytes)} in {plan.archive}{free}"
    )


def _title(run: RunPlan) -> str:
    away = "" if run.folder.endswith(f"/{run.run}") else f", from {run.folder}"
    if not run.steps:
        return f"{run.run}: no checkpoint of {run.unreadable} can be archived{away}"
    cut = f", {run.unreadable} more cannot be archived" if run.unreadable else ""
    return f"{run.run}: {counted(len(run.steps), 'checkpoint')}{_steps(run.steps)}{cut}{away}"


def _steps(steps: Sequence[int]) -> str:
    """First, last and spacing of the steps, at least one."""
    if len(steps) == 1:
        return f", step {steps[0]}"
    apart = sorted({later - earlier for earlier, later in pairwise(steps)})
    spacing = f"every {apart[0]}" if len(apart) == 1 else f"{apart[0]} to {apart[-1]} apart"
    return f", steps {steps[0]} to {steps[-1]}, {spacing}"


def _run_rows(run: RunPlan, before: Sequence[RunPlan]) -> list[Row]:
    """Rows on one run; a model that one of the runs before it has is not told again."""
    rows = [("format", "; some ".join(run.formats))] if run.formats else []
    if run.model is not None:
        rows += _model_rows(run.model, next((one.run for one in before if one.model == run.model), None))
    rows += [("logs", text) for text in _logs(run.logs)]
    known = f"; {counted(run.archived, 'checkpoint')} archived already" if run.archived else ""
    return [*rows, ("disk", f"{format_size(run.disk_bytes)}{known}")]


def _model_rows(model: ModelPlan, same_as: str | None) -> list[Row]:
    layers = f", {counted(model.n_layers, 'layer')}" if model.n_layers else ""
    if same_as is not None:
        return [("model", f"{model.architecture}{layers}: all as in {same_as}")]
    dtypes = " and ".join(f"{n} of {dtype}" for dtype, n in model.dtypes.items()) or "none"
    tensors = f"{dtypes}; {_short(model.n_parameters)} parameters, {format_size(model.n_bytes)} a checkpoint"
    counts = [f"{role} {count.tensors} ({_short(count.parameters)})" for role, count in model.roles.items()]
    return [
        ("model", f"{model.architecture}, {model.told_by}{layers}{_heads(model)}"),
        ("tensors", tensors),
        *([("by role", ", ".join(text.replace(" ", _JOINED) for text in counts))] if counts else []),
        *(("products", _group(group)) for group in model.products),
        *(("kept whole", _group(group)) for group in model.kept_whole),
        *(("not analysed", _group(group)) for group in model.not_analysed),
    ]


def _heads(model: ModelPlan) -> str:
    if model.heads is None:
        return ""
    grouped = model.kv_heads is not None and model.kv_heads != model.heads
    return f", {counted(model.heads, 'head')}" + (f" ({model.kv_heads} of keys and values)" if grouped else "")


def _short(count: int) -> str:
    """A number of parameters: ``402``, ``7.1M``."""
    if count < 10_000:
        return str(count)
    unit, size = next((unit, size) for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)) if count >= size)
    return f"{count / size:.1f}{unit}"


def _group(group: TensorGroup) -> str:
    more = f" ({group.tensors})" if group.tensors > len(group.names) else ""
    return f"{few_of(group.names)}{more}: {group.reason}"


def _logs(logs: Sequence[LogPlan]) -> list[str]:
    """A text for each log, or for the logs of one kind in one folder."""
    if not logs:
        return ["none"]
    telling = [log for log in logs if log.values]
    groups: dict[tuple[str, str], list[LogPlan]] = {}
    for log in telling:
        groups.setdefault((log.kind, log.path.rpartition("/")[0]), []).append(log)
    texts = [_log_group(kind, folder, members) for (kind, folder), members in groups.items()]
    silent = [log.path for log in logs if not log.values]
    if not telling:
        return [f"{few_of(silent)}: no value in {'it' if len(silent) == 1 else 'them'}"]
    return texts + ([f"{counted(len(silent), 'more file')}: nothing that is not said above"] if silent else [])


def _log_group(kind: str, folder: str, logs: Sequence[LogPlan]) -> str:
    name = logs[0].path if len(logs) == 1 else f"{folder or '.'}/ ({len(logs)} files)"
    metrics = list(dict.fromkeys(metric for log in logs for metric in log.metrics))
    first = min(log.first_step for log in logs if log.first_step is not None)
    last = max(log.last_step for log in logs if log.last_step is not None)
    return f"{name} ({kind}): {few_of(metrics, 6)}; steps {first} to {last}"


def _finding_rows(run: RunPlan) -> list[Row]:
    """Findings, errors first; those that say the same of other steps or other files in one row."""
    rows = []
    for severity, label in _SEVERITIES.items():
        texts = _alike([finding for finding in run.findings if finding.severity == severity], run.folder)
        rows += [(label, text) for text in texts[:_FINDINGS]]
        if len(texts) > _FINDINGS:
            rows.append((label, f"and {len(texts) - _FINDINGS} more: --json shows all"))
    return rows


def _alike(findings: Sequence[Finding], folder: str) -> list[str]:
    steps: dict[Finding, list[int]] = {}
    for finding in findings:
        held = steps.setdefault(replace(finding, step=None), [])
        held += [] if finding.step is None else [finding.step]
    files: dict[str, list[str]] = {}
    for finding, at in steps.items():
        name, said = _file_and_words(finding.detail.replace(f"{folder}/", ""))
        if name:
            files.setdefault(said, []).append(name)
        else:
            files.setdefault(said + _at_steps(at), [])
    return [f"{few_of(names)}: {said}" if names else said for said, names in files.items()]


def _file_and_words(detail: str) -> Row:
    """The file that a finding begins with, "" if with none, and what it says."""
    name, colon, said = detail.partition(": ")
    return (name, said) if colon and " " not in name else ("", detail)


def _at_steps(steps: Sequence[int]) -> str:
    if not steps:
        return ""
    return f" (step {steps[0]}" + (f" and {len(steps) - 1} more)" if steps[1:] else ")")


def _passed_over(group: PassedOver) -> str:
    return f"{few_of(group.paths)}: {group.reason}"
