"""Strict JSON: numbers that are not finite become ``null``, because JSON has no ``NaN``.

Python writes and reads ``NaN`` and ``Infinity`` by default; most other readers refuse the whole file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(content: Any, *, indent: int | None = None, ensure_ascii: bool = True, sort_keys: bool = False) -> str:
    """Return ``content`` as JSON text; numbers that are not finite are written as ``null``."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys, allow_nan=False)


def json_sha256(content: Any) -> str:
    """Return the SHA-256 of ``content`` as JSON, independent of the order of its keys."""
    return hashlib.sha256(to_json(content, sort_keys=True).encode()).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
