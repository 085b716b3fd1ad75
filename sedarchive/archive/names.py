"""Names in the archive: any tensor or run name as a safe folder name, and back by attribute.

Names come from files and are hostile: ``../x``, 10,000 characters, two that
differ only in case. A stored name keeps ``[A-Za-z0-9._-]``, percent-encodes the
rest, and gains a hash where it would be too long, special, or ambiguous on a
file system that ignores case. The true name stands in the array's attributes.
"""

import hashlib
import re

_SAFE = re.compile(rb"[A-Za-z0-9_-]")
_LONGEST = 180
RESERVED = frozenset({"zarr.json", "step", "theta", "gram", "metrics", "commits", "run.json", "manifest.json"})
"""Names that the archive itself uses beside runs and tensors."""


def stored_name(name: str) -> str:
    """Folder name of a tensor, a metric or one part of a run name.

    Distinct names give distinct folder names, also on file systems that ignore
    case: a name with upper-case letters carries a hash of itself.
    """
    encoded = "".join(_escaped(byte) for byte in name.encode("utf-8", "surrogatepass"))
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    plain = encoded == name.lower() and encoded not in RESERVED and len(encoded) <= _LONGEST
    return encoded if plain and encoded else f"{encoded[:_LONGEST]}%{_short_hash(name)}"


def _escaped(byte: int) -> str:
    character = bytes([byte])
    return character.decode() if _SAFE.fullmatch(character) or character == b"." else f"%{byte:02X}"


def _short_hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
