"""What a port's card says of the model: timm's own configuration, where the module has one. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from paddle_dla.preprocessing import Preprocessing


def preprocessing_of(module: Any) -> Preprocessing | None:
    """How timm prepares images for ``module``; ``None`` where it says nothing, or nothing that an image could be."""
    config = getattr(module, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or "input_size" not in config:
        return None
    known = {one.name: config[one.name] for one in fields(Preprocessing) if config.get(one.name) is not None}
    try:
        return Preprocessing(**known)
    except ValueError:
        return None


def described(module: Any) -> dict[str, Any]:
    """Class count, classifier, groups for layer decay, parameters without weight decay, feature levels, licence."""
    config = getattr(module, "pretrained_cfg", None)
    config = dict(config) if isinstance(config, Mapping) else {}
    return {
        "num_classes": getattr(module, "num_classes", config.get("num_classes")),
        "classifier": config.get("classifier"),
        "first_conv": config.get("first_conv"),
        "licence": config.get("license"),
        "hub": config.get("hf_hub_id"),
        "layer_groups": _layer_groups(module),
        "no_weight_decay": sorted(_called(module, "no_weight_decay") or ()),
        "feature_levels": _feature_levels(module),
    }


def _called(module: Any, name: str) -> Any:
    method = getattr(module, name, None)
    return method() if callable(method) else None


def _layer_groups(module: Any) -> dict[str, int] | None:
    """``{parameter: depth}``, 0 at the input, as timm's layer decay groups them."""
    matcher = _called(module, "group_matcher")
    if matcher is None:
        return None
    from timm.models import group_parameters

    groups = group_parameters(module, matcher)
    return {name: depth for depth, names in groups.items() for name in names}


def _feature_levels(module: Any) -> list[dict[str, Any]]:
    """What timm's ``feature_info`` says: the module, channels and stride of every level."""
    info = getattr(module, "feature_info", None)
    if info is None:
        return []
    items = info if isinstance(info, list) else getattr(info, "info", [])
    return [{"module": item.get("module"), "channels": item.get("num_chs"), "stride": item.get("reduction")}
            for item in items if isinstance(item, Mapping)]  # fmt: skip
