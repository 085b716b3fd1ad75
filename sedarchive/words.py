"""Words that messages share: a number of things, a few names of many, and the name that a mistaken one may mean."""

from collections.abc import Iterable, Sequence
from itertools import islice

_SUGGESTED, _LIKENESS = 2, 0.7  # val_loss is like val_los, and not like train_loss
_COMPARED = 4_000  # comparing takes some tenths of a millisecond a name
_LONGEST = 200


def counted(count: int, noun: str) -> str:
    """A number of things: ``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def few_of(names: Sequence[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are: ``a, b, c and 4 more``."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Say which known names are like a mistaken one.

    Parameters
    ----------
    name
        What the user wrote.
    known
        The names that there are; of very many the first four thousand are compared.

    Returns
    -------
    str
        Such as `` (did you mean 'val_loss'?)``, to stand behind the mistaken name; empty where none is like it.
    """
    from difflib import get_close_matches  # only mistakes need it

    by_lowered: dict[str, str] = {}
    for each in islice(known, _COMPARED):
        by_lowered.setdefault(each.lower(), each)
    near = get_close_matches(name.lower()[:_LONGEST], by_lowered, n=_SUGGESTED, cutoff=_LIKENESS)
    if not near:
        return ""
    return f" (did you mean {' or '.join(repr(by_lowered[one]) for one in near)}?)"
