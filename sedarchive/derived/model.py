"""One archived checkpoint as a model: its tensors, what they are, and where their names hold the layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sedarchive.archive import Archive, RunArchive
from sedarchive.archive.commits import Commit
from sedarchive.compute.requests import Layout, recorded_layout
from sedarchive.errors import HistoryError, NothingMatchedError
from sedarchive.families import Family, load_families
from sedarchive.families.match import bare_name, layer_span
from sedarchive.history import TensorSpec
from sedarchive.restore import commit_of, spec_of
from sedarchive.roles import Architecture, assign_roles
from sedarchive.tables import Database
from sedarchive.words import few_of


@dataclass(frozen=True)
class Stored:
    """A checkpoint of an archive."""

    run: RunArchive
    commit: Commit
    layout: Layout
    """Heads and family as the user gave them to ``compute``."""

    @cached_property
    def specs(self) -> dict[str, TensorSpec]:
        """Type and shape of each tensor, by name."""
        return {name: spec_of(self.run, self.commit, name) for name in sorted(self.commit.tensors)}

    @cached_property
    def architecture(self) -> Architecture:
        """What the tensors are."""
        layout = self.layout
        return assign_roles(self.specs, self.run.config, layout.heads, layout.kv_heads, layout.families)

    @property
    def family(self) -> Family | None:
        """Family of the model; None if only single names are known."""
        known = {**load_families(), **{one.name: one for one in self.layout.families}}
        return known.get(self.architecture.family)

    def describe(self) -> str:
        """Say which checkpoint it is."""
        return f"run {self.run.name}, step {self.commit.step}"


def stored_checkpoint(archive: Path, run: str, step: int | None, database: Database | None) -> Stored:
    """Open a checkpoint; the last one if no step is given.

    Raises
    ------
    ArchiveError
        If there is no such archive, run or step, or its records are damaged.
    NothingMatchedError
        If the run has no checkpoints.
    """
    opened = Archive(archive).run(run)
    if not opened.commits:
        raise NothingMatchedError(f"run {run} has no checkpoints; `sedarchive ingest` says why")
    commit = commit_of(opened, opened.steps[-1] if step is None else step)
    return Stored(opened, commit, recorded_layout(database) if database else Layout())


@dataclass(frozen=True)
class PlacedName:
    """A tensor's name, and where it holds the index of a layer."""

    bare: str
    """Without the components of wrappers, which no model library knows."""
    span: tuple[int, int] | None
    """None outside the layers."""

    @property
    def layer(self) -> int | None:
        """Index of the layer; None outside the layers."""
        return int(self.bare[slice(*self.span)]) if self.span else None

    def with_layer(self, layer: int) -> str:
        """Return the name in another layer."""
        assert self.span is not None
        return f"{self.bare[: self.span[0]]}{layer}{self.bare[self.span[1] :]}"


def placed_names(stored: Stored) -> dict[str, PlacedName]:
    """Find the layer in every name.

    Raises
    ------
    HistoryError
        If the model has no layers 0, 1, 2 ..., or several stacks of them.
    """
    family, roles = stored.family, stored.architecture.roles
    placed = {}
    for name in stored.specs:
        bare = bare_name(name)
        placed[name] = PlacedName(bare, layer_span(bare, family) if roles[name].layer is not None else None)
    _check_layers(stored, placed)
    return placed


def _check_layers(stored: Stored, placed: Mapping[str, PlacedName]) -> None:
    inside = [one for one in placed.values() if one.span]
    stacks = sorted({one.bare[: one.span[0]] for one in inside if one.span})
    layers = sorted({one.layer for one in inside if one.layer is not None})
    if len(stacks) > 1:
        raise HistoryError(
            f"{stored.describe()}: its layers lie in {len(stacks)} stacks ({few_of(stacks)}); layers can be removed "
            "from a model of one stack only"
        )
    if not layers or layers != list(range(len(layers))):
        said = f"the layers {few_of([str(layer) for layer in layers])}" if layers else "no layers"
        raise HistoryError(
            f"{stored.describe()}: its names hold {said}, not 0, 1, 2 ...; `sedarchive inspect` shows them"
        )
    if len({one.bare for one in placed.values()}) < len(placed):
        raise HistoryError(f"{stored.describe()}: two tensors differ in the names of wrappers alone; keep one of them")


def model_config(config: Mapping[str, Any], ours: Sequence[str] = ("given", "in_checkpoint")) -> dict[str, Any]:
    """Config as a model library reads it: without what ingest added, and without names of code beside it."""
    return {name: value for name, value in config.items() if name not in (*ours, "auto_map")}
