"""What commit records say of a run, tensor by tensor: one digest a checkpoint, turned into small integers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from sedarchive.archive.commits import ArrayInfo, Commit
from sedarchive.history import DTYPES, TensorSpec


@dataclass(frozen=True)
class Track:
    """One tensor over the checkpoints of a run."""

    name: str
    digests: tuple[str | None, ...]
    """Digest of its dtype, shape and bytes at each checkpoint (T,); None where it is absent."""
    specs: tuple[TensorSpec | None, ...]
    """Dtype and shape at each checkpoint (T,); None where it is absent."""
    nonfinite: tuple[int, ...] = ()
    """NaN and infinite values at each checkpoint (T,), 0 where none were counted; empty where there are none at all."""

    @cached_property
    def contents(self) -> tuple[int, ...]:
        """First checkpoint with the same bytes, for each checkpoint (T,); -1 where it is absent."""
        first: dict[str, int] = {}
        return tuple(-1 if digest is None else first.setdefault(digest, at) for at, digest in enumerate(self.digests))

    @cached_property
    def spec(self) -> TensorSpec:
        """Dtype and shape at its first checkpoint."""
        return next(spec for spec in self.specs if spec is not None)

    @cached_property
    def present(self) -> tuple[int, ...]:
        """Checkpoints that have it."""
        return tuple(position for position, content in enumerate(self.contents) if content >= 0)

    @cached_property
    def moves(self) -> bool:
        """Whether its bytes change at all."""
        return len({self.contents[position] for position in self.present}) > 1

    @property
    def is_coarse(self) -> bool:
        """Whether it is stored in so few bits that a value may return by chance."""
        return any(DTYPES[spec.dtype].fraction_bits < 23 for spec in self.specs if spec is not None)


@dataclass(frozen=True)
class Tracks:
    """Everything that the commit records of a run say of its weights, in step order."""

    steps: tuple[int, ...]
    slots: tuple[int, ...]
    """Order of arrival in the archive."""
    floats: tuple[Track, ...]
    """Tensors of floating-point numbers, by name."""
    others: tuple[Track, ...]
    """Integers, flags and complex numbers, by name."""

    @cached_property
    def trained(self) -> tuple[Track, ...]:
        """Floating-point tensors that change at least once."""
        return tuple(track for track in self.floats if track.moves)

    @cached_property
    def frozen(self) -> tuple[Track, ...]:
        """Floating-point tensors that never change."""
        return tuple(track for track in self.floats if not track.moves and len(track.present) > 1)


def tracks_of(commits: Iterable[Commit], arrays: Mapping[str, ArrayInfo]) -> Tracks:
    """Tracks of the commits of one run, in any order."""
    ordered = sorted(commits, key=lambda commit: commit.step)
    names = sorted({name for commit in ordered for name in commit.tensors})
    specs = {path: info.spec for path, info in arrays.items()}
    tracks = [_track(name, ordered, specs) for name in names]
    return Tracks(
        tuple(commit.step for commit in ordered),
        tuple(commit.slot for commit in ordered),
        tuple(track for track in tracks if track.spec.is_float),
        tuple(track for track in tracks if not track.spec.is_float),
    )


def _track(name: str, commits: list[Commit], specs: Mapping[str, TensorSpec]) -> Track:
    stored = [commit.tensors.get(name) for commit in commits]
    counts = tuple((commit.nonfinite or {}).get(name, 0) for commit in commits)
    return Track(
        name,
        tuple(None if entry is None else entry.digest for entry in stored),
        tuple(None if entry is None else specs[entry.array] for entry in stored),
        counts if any(counts) else (),
    )
