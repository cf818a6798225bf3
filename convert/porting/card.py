"""Collect a port's card entries about the model from timm's configuration, if the module has one. Plain values.

A module that is not timm's may have anything under the same names. Values of an unexpected type are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from operator import index
from typing import Any

from paddle_dla.options import HIGHEST
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.manifest import MOST_CLASSES


def preprocessing_of(module: Any) -> Preprocessing | None:
    """Return timm's preprocessing for ``module``; ``None`` if it is not configured, or invalid for images."""
    config = _config(module)
    if "input_size" not in config:
        return None
    known = {one.name: config[one.name] for one in fields(Preprocessing) if config.get(one.name) is not None}
    try:
        return Preprocessing(**known)
    except (TypeError, ValueError):
        return None


def described(module: Any) -> dict[str, Any]:
    """Return the card's entries that come from timm's configuration and methods.

    These are the class count, classifier, first convolution, licence, hub id, groups for layer decay, parameters
    without weight decay, and feature levels.
    """
    config = _config(module)
    classes = attribute(module, "num_classes")
    return {
        "num_classes": _whole(config.get("num_classes") if classes is None else classes, MOST_CLASSES),
        "classifier": _names(config.get("classifier")),
        "first_conv": _names(config.get("first_conv")),
        "licence": _text(config.get("license")),
        "hub": _text(config.get("hf_hub_id")),
        "layer_groups": _layer_groups(module),
        "no_weight_decay": _undecayed(module),
        "feature_levels": _feature_levels(module),
    }


def attribute(module: Any, name: str) -> Any:
    """Return ``module.name``; ``None`` if there is none, or if reading it raises."""
    try:
        return getattr(module, name, None)
    except Exception:  # noqa: BLE001 - a property may raise anything
        return None


def _called(module: Any, name: str) -> Any:
    """Call the method ``name`` and return its result; ``None`` if there is no such method without arguments."""
    method = attribute(module, name)
    try:
        return method() if callable(method) else None
    except Exception:  # noqa: BLE001 - a method of the same name with another meaning
        return None


def _config(module: Any) -> dict[str, Any]:
    config = attribute(module, "pretrained_cfg")
    return {name: config[name] for name in config if isinstance(name, str)} if isinstance(config, Mapping) else {}


def _whole(value: Any, most: int) -> int | None:
    try:
        found = None if isinstance(value, bool) else index(value)
    except (TypeError, ValueError):
        return None
    return found if found is not None and 0 <= found <= most else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _names(value: Any) -> str | list[str] | None:
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return [*value]
    return _text(value)


def _undecayed(module: Any) -> list[str]:
    found = _called(module, "no_weight_decay")
    return sorted(name for name in found if isinstance(name, str)) if isinstance(found, (set, list, tuple)) else []


def _layer_groups(module: Any) -> dict[str, int] | None:
    """Return ``{parameter: depth}`` as timm's layer decay groups them; 0 is at the input."""
    matcher = _called(module, "group_matcher")
    if not isinstance(matcher, Mapping):
        return None
    try:
        from timm.models import group_parameters

        groups = group_parameters(module, matcher)
    except Exception:  # noqa: BLE001 - the matcher has a form that timm does not support
        return None
    return {name: depth for depth, names in groups.items() for name in names}


def _feature_levels(module: Any) -> list[dict[str, Any]]:
    """Return the module, channels and stride of every level of timm's ``feature_info``."""
    info = attribute(module, "feature_info")
    items = info if isinstance(info, list) else getattr(info, "info", None)
    return [_level(item) for item in items if isinstance(item, Mapping)] if isinstance(items, (list, tuple)) else []


def _level(item: Mapping[str, Any]) -> dict[str, Any]:
    channels, stride = (_whole(item.get(key), HIGHEST) for key in ("num_chs", "reduction"))
    return {"module": _text(item.get("module")), "channels": channels, "stride": stride}
