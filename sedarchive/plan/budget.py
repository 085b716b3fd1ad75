"""What does not fit into ``--max-mem``: the tensor that needs most, so that what its message asks for does for all."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil

from sedarchive.errors import MemoryBudgetError
from sedarchive.sizes import format_size


@dataclass(frozen=True)
class Need:
    """The least memory in which one tensor can be handled."""

    tensor: str
    what: str
    """What of it must be held at a time, such as ``one row at 40 steps``."""
    n_bytes: int
    fixed: int = 0
    """Bytes of these that a tensor of nothing would need as well."""

    @property
    def words(self) -> str:
        """What is needed, and how much of it no smaller tensor would save."""
        fixed = f" in all, {format_size(self.fixed)} of it fixed (buffers of a worker, whatever the tensor)"
        return f"tensor {self.tensor}: {self.what} needs {format_size(self.n_bytes)}{fixed if self.fixed else ''}"


def check_fits(needs: Iterable[Need], max_mem: int) -> None:
    """Refuse a plan that does not fit.

    Raises
    ------
    MemoryBudgetError
        Naming the tensor that needs most, what of that is fixed, and the smallest ``--max-mem`` that does.
    """
    most = max(needs, key=lambda need: need.n_bytes, default=None)
    if most is not None and most.n_bytes > max_mem:
        raise MemoryBudgetError(
            f"{most.words}, more than the {format_size(max_mem)} given; "
            f"use --max-mem {ceil(most.n_bytes / 10**6)}MB, the least that will do",
            most.n_bytes,
        )


def worst(error: MemoryBudgetError, others: Iterable[Callable[[], object]]) -> MemoryBudgetError:
    """Of one refusal, and of those that other plans end in, the one that needs most."""
    for make in others:
        try:
            make()
        except MemoryBudgetError as other:
            error = max(error, other, key=lambda one: one.needed)
    return error
