"""Digests of what results follow from."""

import hashlib
import json
from typing import Any


def canonical_digest(content: Any) -> str:
    """SHA-256 of the JSON form with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
