"""Read and write YAML: the plain subset for configs, with the rules of YAML 1.2.

PyYAML follows YAML 1.1, where ``1e-3`` is a text, ``no`` is false, ``010`` is 8, ``12:30`` is 750 and the second of two
equal keys silently overrides the first. Here ``1e-3`` is a number, only ``true`` and ``false`` are booleans, numbers
are decimal, and a duplicate key is an error. Only null, booleans, numbers, texts, lists and mappings can be read.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import yaml
from yaml.composer import ComposerError

from paddle_dla.config.errors import Fault
from paddle_dla.config.given import OVERRIDE, Given

_INT, _FLOAT, _LIST = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "seq"))
_SCALARS = (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (_INT, r"^[-+]?[0-9]+$", list("-+0123456789")),
    (_FLOAT, r"^[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    """Safe loader without anchors (with them, a file of two lines could grow to gigabytes)."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, "anchors (&, *) are not read; base: FILE shares settings", mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quote texts that ``_Loader`` would read as another type."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), _first)
_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence(_LIST, items, flow_style=True))
_Loader.add_constructor(_INT, _whole)
_Loader.add_constructor(_FLOAT, _number)


def read_options(text: str, source: str, prefix: str = "") -> tuple[dict[str, Given], list[Fault]]:
    """Read the values in ``text`` by dotted key, under ``prefix``, and its faults as YAML.

    ``source`` names the text in messages. An empty section gives no options, and neither does an empty text.
    """
    try:
        reader = _Reader(text, source)
        node = reader.loader.get_single_node()
        if node is None:
            return ({prefix: Given(None, source, prefix)} if prefix else {}), []
        reader.read(node, prefix)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        return {}, [Fault(source, (), f"not YAML that can be read: {_one_line(error)}")]
    return reader.found, reader.faults


class _Reader:
    """Flatten one document into ``found`` with the line of each value; duplicates are added to ``faults``."""

    def __init__(self, text: str, source: str):
        self.loader, self.source = _Loader(text), source
        self.found: dict[str, Given] = {}
        self.faults: list[Fault] = []

    def read(self, node: Any, key: str) -> None:
        """Read ``node`` at the dotted ``key`` (the document itself has an empty one)."""
        if isinstance(node, yaml.MappingNode):
            self._read_section(node, key)
        elif key:
            self._keep(key, Given(self.loader.construct_object(node, deep=True), self._where(node), key))
        elif not _is_empty(node):
            self.faults.append(Fault(self._where(node), (), "expected sections such as `model:`, not a single value"))

    def _read_section(self, node: Any, key: str) -> None:
        lines: dict[str, str] = {}
        for name_node, value_node in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                what = "a section" if isinstance(name_node, yaml.MappingNode) else "a list"
                self.faults.append(Fault(self._where(name_node), (), f"expected the name of an option, not {what}"))
                continue
            name = f"{key}.{name_node.value}" if key else str(name_node.value)
            if name in lines:
                self.faults.append(Fault(self._where(name_node), (name,), f"said before, in {lines[name]}"))
            lines[name] = self._where(name_node)
            if key or not _is_empty(value_node):
                self.read(value_node, name)

    def _keep(self, key: str, given: Given) -> None:
        if key in self.found and self.found[key].where != given.where:  # as a.b: 1 beside a: {b: 2}
            self.faults.append(Fault(given.where, (key,), f"said before, in {self.found[key].where}"))
        self.found[key] = given

    def _where(self, node: Any) -> str:
        return self.source if self.source == OVERRIDE else f"{self.source}:{node.start_mark.line + 1}"


def _is_empty(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.value and not node.style


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0] or type(error).__name__
    return f"line {mark.line + 1}: {problem}" if mark else problem


def write_yaml(sections: dict[str, Any]) -> str:
    """Write ``sections`` as text that ``read_options`` reads to the same values, floats to the last bit."""
    return yaml.dump(
        sections, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=math.inf
    )
