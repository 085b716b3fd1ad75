"""Gram matrices as they lie in the archive: under ``gram/<key>``, one chunk a leaf.

The key is a hash of everything that they depend on; a leaf whose chunk exists is done, so an interrupted sweep goes on
where it stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.archive import RunArchive
from sedarchive.archive.manifest import sealed_chunks, write_manifest
from sedarchive.archive.plainchunks import PlainChunks, ReusedMemory
from sedarchive.archive.store import (
    ArraySpec,
    CheckedStore,
    create_array,
    make_group,
    open_array,
    read_region,
    remove_arrays,
    write_region,
)
from sedarchive.digests import canonical_digest
from sedarchive.errors import DamagedArchiveError
from sedarchive.gram import Gram, GramSums
from sedarchive.leaves import Leaf, Scope
from sedarchive.plan.tasks import DEFAULT_BAND, FULL_GRAM_LIMIT
from sedarchive.rolling.windows import UpdateCounts
from sedarchive.sizes import MIB
from sedarchive.sweeps.anatomy import Anatomy

ALGORITHM = "gram-1"
PRODUCT_ALGORITHM = "product-gram-1"
_SUM_BYTES = 128 * MIB
_COUNTS = ("zeros", "rounding", "nonfinite", "largest")


@dataclass(frozen=True)
class GramOptions:
    """Options that the result depends on, and those it does not."""

    max_mem: int
    band: int | None = None
    """Distance of updates kept; None chooses: all up to 1,024 checkpoints, 64 beyond."""

    def band_for(self, n_steps: int) -> int | None:
        """Band used for a history of ``n_steps`` checkpoints; None for the full matrix."""
        return DEFAULT_BAND if self.band is None and n_steps > FULL_GRAM_LIMIT else self.band


def gram_key(anatomy: Anatomy, options: GramOptions) -> str:
    """Hash of everything that the Gram matrices of a run depend on."""
    run = anatomy.run
    leaves = [(leaf.name, leaf.tensor, _part_key(leaf)) for leaf in anatomy.leaves]
    history = [(commit.step, commit.digest) for commit in run.commits]
    return canonical_digest([ALGORITHM, history, leaves, options.band_for(len(history))])[:16]


def _part_key(leaf: Leaf) -> list[Any] | None:
    """What of its tensor a leaf is; of a product also what it is made of, and by which version of the algorithm."""
    part, product = leaf.part, leaf.product
    made = [PRODUCT_ALGORITHM, *product.factors, product.scale, product.transposed] if product else []
    if part is None:
        return made or None
    row = [] if part.row is None else [part.row]
    return [part.axis, part.period, part.start, part.stop, *row, *made]


class LeafArray:
    """An array of results (leaf, ...) in the archive, a chunk a leaf."""

    def __init__(self, store: CheckedStore, path: str) -> None:
        self._array = open_array(store, path)
        self._plain = PlainChunks.of(store, self._array)
        self.shape = self._array.shape[1:]
        self.attributes = dict(self._array.attrs)

    def check(self, n_leaves: int, shape: tuple[int, ...]) -> None:
        """Refuse metadata of another array: what they claim would be made room for.

        Raises
        ------
        DamagedArchiveError
            If it is not a chunk of `shape` for each of the leaves.
        """
        array = self._array
        if (array.shape, array.chunks, array.dtype) != ((n_leaves, *shape), (1, *shape), np.dtype("<f8")):
            raise DamagedArchiveError(
                f"{array.path}: its metadata are not those of its results; run `sedarchive verify`"
            )

    def read(self, at: int, memory: ReusedMemory | None = None) -> NDArray[np.float64]:
        """Results of one leaf; they may be overwritten by what is read into the same ``memory`` next."""
        if self._plain is None:
            stored: NDArray[np.float64] = read_region(self._array, (slice(at, at + 1),))[0]
            return stored
        out = (memory or ReusedMemory()).array((1, *self.shape), self._array.dtype)
        self._plain.read((0, self.shape[0]), [at], out.reshape(1, self.shape[0], -1))
        values: NDArray[np.float64] = out[0]
        return values

    def write(self, at: int, values: NDArray[np.float64]) -> None:
        """Store the results of one leaf."""
        block = values.reshape(1, self.shape[0], -1)
        if self._plain is None or not self._plain.write((at, at + 1), (0, self.shape[0]), block, fresh=True):
            write_region(self._array, (slice(at, at + 1),), values[None])


class StoredGrams:
    """Gram matrices of one run as they lie in the archive."""

    def __init__(self, anatomy: Anatomy, store: CheckedStore, key: str) -> None:
        self.key = key
        self._run: RunArchive = anatomy.run
        self._anatomy = anatomy
        self._leaves = anatomy.leaves
        self._index = {leaf.name: at for at, leaf in enumerate(anatomy.leaves)}
        self._store = store
        self._folder = anatomy.run.folder / "gram" / key
        self._group = f"{anatomy.run.group}/gram/{key}"
        self._opened: dict[str, LeafArray] = {}
        self._written: dict[str, LeafArray] = {}

    @property
    def exists(self) -> bool:
        return all((self._folder / part / "zarr.json").exists() for part in ("updates", "origin", "counts"))

    def create(self, band: int | None) -> None:
        """Make the arrays, unless they stand."""
        if self.exists:
            return
        n_leaves, n_steps = len(self._leaves), len(self._run.commits)
        width = n_steps if band is None else min(band, n_steps - 1) + 1
        make_group(self._store, self._group)
        attributes = {"algorithm": ALGORITHM, "band": band, "leaves": [leaf.name for leaf in self._leaves]}
        self._create("counts", (n_leaves, len(_COUNTS), n_steps), ["leaf", "count", "step"], {"counts": _COUNTS})
        self._create("origin", (n_leaves, n_steps), ["leaf", "step"], {})
        self._create("updates", (n_leaves, n_steps, width), ["leaf", "step", "other"], attributes)
        write_manifest(self._run.folder, self._store)

    def _create(self, part: str, shape: tuple[int, ...], names: list[str], attributes: dict[str, Any]) -> None:
        spec = ArraySpec(shape, (1, *shape[1:]), "<f8", float("nan"), names, attributes)
        if not (self._folder / part / "zarr.json").exists():
            create_array(self._store, f"{self._group}/{part}", spec)

    def write(self, tensor: str, sums: Sequence[GramSums]) -> None:
        """Store the leaves of one tensor; the Gram matrix last, since its chunk says that the leaf is done."""
        names = [leaf.name for leaf in self._anatomy.leaves_of(tensor)]
        for name, leaf_sums in zip(names, sums, strict=True):
            at = self._index[name]
            products = leaf_sums.gram if leaf_sums.gram is not None else leaf_sums.band
            self._write("counts", at, np.stack([getattr(leaf_sums, count) for count in _COUNTS]).astype("<f8"))
            self._write("origin", at, leaf_sums.origin)
            self._write("updates", at, np.asarray(products))

    def _write(self, part: str, at: int, values: NDArray[np.float64]) -> None:
        if part not in self._written:
            self._written[part] = self._checked(part, self._store)
        self._written[part].write(at, values)

    def is_done(self, leaf: Leaf) -> bool:
        """Whether the leaf's Gram matrix is stored."""
        return self._chunk(leaf).exists()

    def _chunk(self, leaf: Leaf) -> Path:
        """File that says that a leaf is done."""
        return self._folder / "updates" / "c" / str(self._at(leaf)) / "0" / "0"

    def missing_tensors(self) -> list[str]:
        return list(dict.fromkeys(leaf.tensor for leaf in self._leaves if not self.is_done(leaf)))

    @property
    def is_final(self) -> bool:
        """Whether no other Gram matrices are left and the manifest knows every chunk of these."""
        parts = (("counts", "0/0"), ("origin", "0"), ("updates", "0/0"))
        chunks = {f"gram/{self.key}/{part}/c/{at}/{rest}" for part, rest in parts for at in range(len(self._leaves))}
        return not self._others() and chunks <= sealed_chunks(self._run.folder)

    def finish(self) -> None:
        """Remove Gram matrices made from an earlier state of the run, and seal."""
        for other in self._others():
            remove_arrays(other)
        write_manifest(self._run.folder, self._store)

    def _others(self) -> list[Path]:
        """Folders of Gram matrices made from another state of the run."""
        return [folder for folder in self._folder.parent.iterdir() if folder.is_dir() and folder.name != self.key]

    def discard_damaged(self) -> list[str]:
        """Forget the leaves whose stored results cannot be read, so that they are made again; return their names.

        None where nothing can be written.
        """
        if self._store.read_only:
            return []
        try:
            for part in ("counts", "origin", "updates"):
                self._read(part)
        except DamagedArchiveError:
            remove_arrays(self._folder)
            return [leaf.name for leaf in self._leaves]
        damaged = [leaf for leaf in self._leaves if self.is_done(leaf) and not self._is_whole(leaf)]
        for leaf in damaged:
            self._chunk(leaf).unlink()
        return [leaf.name for leaf in damaged]

    def _is_whole(self, leaf: Leaf) -> bool:
        try:
            for part in ("counts", "origin", "updates"):
                self._read(part).read(self._at(leaf))
        except DamagedArchiveError:
            return False
        return True

    def gram(self, scope: Scope) -> Gram:
        """Sum of the Gram matrices of a scope's leaves."""
        return self.grams([scope])[0]

    @property
    def matrix_bytes(self) -> int:
        """Bytes of the Gram matrix of one scope."""
        return 8 * prod(self._read("updates").shape)

    def in_batches(self, scopes: Sequence[Scope]) -> Iterator[list[tuple[Scope, Gram]]]:
        """Scopes with their Gram matrices, as many together as may be held."""
        at_once = max(1, _SUM_BYTES // max(self.matrix_bytes, 1))
        for start in range(0, len(scopes), at_once):
            batch = scopes[start : start + at_once]
            yield list(zip(batch, self.grams(batch), strict=True))

    def grams(self, scopes: Sequence[Scope]) -> list[Gram]:
        """Gram matrix of each scope: the sum over its leaves, in their order; a leaf of several scopes is read once."""
        updates, origins = self._read("updates"), self._read("origin")
        products, origin = ([np.zeros(array.shape) for _ in scopes] for array in (updates, origins))
        holders: dict[int, list[int]] = {}
        for at, scope in enumerate(scopes):
            for leaf in scope.leaves:
                holders.setdefault(self._at(leaf), []).append(at)
        memory = ReusedMemory()
        for leaf_at in sorted(holders):
            leaf_products, leaf_origin = updates.read(leaf_at, memory), origins.read(leaf_at)
            with np.errstate(invalid="ignore", over="ignore"):
                for at in holders[leaf_at]:
                    products[at] += leaf_products
                    origin[at] += leaf_origin
        banded = isinstance(updates.attributes.get("band"), int)
        return [
            Gram(None if banded else own, own if banded else None, row)
            for own, row in zip(products, origin, strict=True)
        ]

    def _read(self, part: str) -> LeafArray:
        if part not in self._opened:
            # the run's own store refuses to read a missing chunk as NaN; the writer's does not
            self._opened[part] = self._checked(part, self._run.store)
        return self._opened[part]

    def _checked(self, part: str, store: CheckedStore) -> LeafArray:
        array = LeafArray(store, f"{self._group}/{part}")
        n, band = len(self._run.commits), array.attributes.get("band")
        width = min(band, n - 1) + 1 if isinstance(band, int) else n
        array.check(len(self._leaves), {"counts": (len(_COUNTS), n), "origin": (n,), "updates": (n, width)}[part])
        return array

    def counts(self, scope: Scope) -> UpdateCounts:
        """Counts summed over a scope's leaves (the largest magnitude: its maximum)."""
        leaves = self._counts[[self._at(leaf) for leaf in scope.leaves]]
        zeros, rounding, nonfinite = leaves[:, :3].sum(axis=0)
        return UpdateCounts(zeros, rounding, nonfinite, leaves[:, 3].max(axis=0))

    @cached_property
    def _counts(self) -> NDArray[np.float64]:
        """Counts of every leaf that is done (leaf, count, T); NaN for the others."""
        array = self._read("counts")
        counts = np.full((len(self._leaves), *array.shape), np.nan)
        for at, leaf in enumerate(self._leaves):
            if self.is_done(leaf):
                counts[at] = array.read(at)
        return counts

    def _at(self, leaf: Leaf) -> int:
        return self._index[leaf.name]
