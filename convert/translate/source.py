"""Write classes as a readable Python file: header, imports, used parts, classes. No framework."""

from __future__ import annotations

import ast
import functools
import math
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from convert.translate.classes import Translation
from convert.translate.merging import Class
from convert.translate.templates import filled, literal

SMALLEST_ROOT = 1e-3  # 1e6 is no number of channels; almost every smaller float equals some integer ** -0.5
PARTS = Path(__file__).with_name("parts.py")
LINE = 120


@functools.cache
def _parts() -> dict[str, tuple[ast.stmt, str]]:
    """Return ``{name: (tree, text)}`` of every function and class of ``parts``, without comments for pyright."""
    text = re.sub(r"  # pyright: .*", "", PARTS.read_text(encoding="utf-8"))
    nodes = [node for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {node.name: (node, ast.get_source_segment(text, node) or "") for node in nodes}


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names that ``nodes`` read, without local variables: a local ``windows`` is not the part."""
    return set().union(*map(_read, nodes))


def _read(node: ast.AST) -> set[str]:
    found = _names(ast.iter_child_nodes(node))
    if isinstance(node, ast.Name):
        found.add(node.id)
    if isinstance(node, ast.FunctionDef):
        names = (inner for inner in ast.walk(node) if isinstance(inner, ast.Name))
        found -= {name.id for name in names if isinstance(getattr(name, "ctx", None), ast.Store)}
    return found


def used_parts(nodes: list[ast.stmt]) -> list[str]:
    """Return the parts that ``nodes`` use, directly or through other parts, in the order of the file."""
    parts, found, names = _parts(), set(), _names(nodes)
    while new := names & parts.keys() - found:
        found |= new
        names = _names(parts[name][0] for name in new)
    return [name for name in parts if name in found]


def class_node(made: Class) -> ast.ClassDef:
    """Return the syntax tree of a class."""
    given = [ast.arg(name) for name in ("self", *made.arguments)]
    arguments = ast.arguments([], given, None, [], [], None, [literal(value) for value in made.defaults.values()])
    start = ast.Expr(filled("super().__init__(*start)", {"start": ast.List(made.start, ast.Load())}))
    body: list[ast.stmt] = [ast.Expr(ast.Constant(made.doc or f"``{made.module.kind}``."))]
    if made.init or made.arguments or made.start:
        body.append(ast.FunctionDef("__init__", arguments, [start, *made.init], []))
    if made.body is not None:
        missing: list[ast.expr] = [ast.Constant(None) for _ in range(made.body.optional)]
        inputs = ast.arguments([], [ast.arg("self"), *map(ast.arg, made.body.inputs)], None, [], [], None, missing)
        body.append(ast.FunctionDef("forward", inputs, made.body.statements, []))
    base = ast.Attribute(ast.Name("nn"), made.base, ast.Load())
    return ast.ClassDef(made.name, [base], [], body, [])


def without_gradient(requires_grad: Mapping[str | None, bool]) -> list[str]:
    """Return the outermost layers and parameters of the port that contain only parameters without gradient, by name."""
    fixed = {name for name, needed in requires_grad.items() if name and not needed}
    trained = {prefix for name, needed in requires_grad.items() if name and needed for prefix in _above(name)}
    return sorted({next(prefix for prefix in _above(name) if prefix not in trained) for name in fixed})


def _above(name: str) -> list[str]:
    """Return the layers that contain a parameter, outermost first, and the parameter: "", "a", "a.b" for ``a.b``."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]


def _builder(model: str, frozen: Sequence[str]) -> str:
    """Return the function that builds the model; ``frozen`` parts get no gradient, as in the reference."""
    if not frozen:
        return f"def build_model():\n    return {model}()"
    lines = ["def build_model():", f"    model = {model}()"]
    if frozen == [""]:
        lines += ["    for parameter in model.parameters():", "        parameter.stop_gradient = True"]
    else:
        starts = [f"{name}." for name in frozen]
        lines += [
            "    for name, parameter in model.named_parameters():",
            f"        if f'{{name}}.'.startswith({tuple(starts) if len(starts) > 1 else starts[0]!r}):",
            "            parameter.stop_gradient = True",
        ]
    return "\n".join([*lines, "    return model"])


def written(translation: Translation, header: str, frozen: Sequence[str] = ()) -> str:
    """Return the formatted file; ``frozen`` is the result of ``without_gradient``."""
    classes: list[ast.stmt] = [class_node(made) for made in translation.classes]
    parts = used_parts(classes)
    names = _names([*(_parts()[name][0] for name in parts), *classes])
    imports = ["import paddle"] * ("paddle" in names) + ["import paddle.nn.functional as F"] * ("F" in names)
    pieces = [
        _docstring(header),
        "\n".join([*imports, "from paddle import nn"]),
        *(_parts()[name][1] for name in parts),
        *(_unparsed(node) for node in classes),
        _builder(translation.model, frozen),
    ]
    return formatted("\n\n\n".join(pieces))


def _docstring(text: str) -> str:
    """Return ``text`` in triple quotes."""
    escaped = text.strip().replace("\\", "\\\\").replace('"', '\\"')
    return f'"""{escaped}\n"""' if "\n" in escaped else f'"""{escaped}"""'


_RETURNED = re.compile(r"^(\s*return )\((.*)\)$")


def _unparsed(node: ast.stmt) -> str:
    """Return the source of ``node``, without the parentheses that ``ast`` adds around a returned tuple."""
    lines = ast.unparse(ast.fix_missing_locations(_Roots().visit(node))).splitlines()
    for number, line in enumerate(lines):
        found = _RETURNED.match(line)
        if found and _parses(found[2]):
            lines[number] = found[1] + found[2]
    return "\n".join(lines)


class _Roots(ast.NodeTransformer):
    """Replace 0.1767766952966369, a scale of attention, by ``32 ** -0.5`` if an integer gives exactly that float."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, float) or not SMALLEST_ROOT < node.value < 1:
            return node
        base = round(node.value**-2)
        if base**-0.5 != node.value or math.isqrt(base) ** 2 == base:
            return node
        return ast.BinOp(ast.Constant(base), ast.Pow(), ast.Constant(-0.5))


def _parses(text: str) -> bool:
    try:
        return isinstance(ast.parse(text, mode="eval").body, ast.Tuple)
    except SyntaxError:
        return False


def formatted(source: str) -> str:
    """Format ``source`` with ruff. Raises ``RuntimeError`` if ruff fails."""
    from ruff import find_ruff_bin

    command = [find_ruff_bin(), "format", "--isolated", f"--line-length={LINE}", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ruff cannot format the port: {done.stderr.strip()}")
    return done.stdout
