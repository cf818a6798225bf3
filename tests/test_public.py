"""What is public: users rely on these names, so adding one is a decision and removing one is a major version."""

import importlib
from pathlib import Path

import pytest

API = Path(__file__).parent.parent / "docs" / "api.md"
PUBLIC = {
    "alignment": [
        "align", "align_data", "align_training", "compare_records", "record_paddle", "record_torch", "transfer",
    ],
    "convert": ["port_model"],
    "paddle_dla": ["create_model", "list_models"],
}  # fmt: skip


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_offers_these_names_and_no_other(package):
    assert importlib.import_module(package).__all__ == PUBLIC[package]


@pytest.mark.torch
@pytest.mark.parametrize("package", PUBLIC)
def test_a_public_name_is_described_and_in_the_reference(package):
    reference = API.read_text(encoding="utf-8").split()
    for name in PUBLIC[package]:
        found = getattr(importlib.import_module(package), name)
        assert found.__doc__
        assert f"{found.__module__}.{name}" in reference


def test_what_is_not_there_is_an_attribute_error():
    for package in PUBLIC:
        with pytest.raises(AttributeError, match="no_such_name"):
            importlib.import_module(package).no_such_name  # noqa: B018
