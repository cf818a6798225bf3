"""Classes as a readable Python file: header, imports, the parts that are used, the classes. No framework."""

from __future__ import annotations

import ast
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from convert.translate.classes import Class, Translation
from convert.translate.templates import filled

PARTS = Path(__file__).with_name("parts.py")
LINE = 120


@functools.cache
def _parts() -> dict[str, ast.stmt]:
    tree = ast.parse(PARTS.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def used_parts(nodes: list[ast.AST]) -> list[ast.stmt]:
    """The parts that ``nodes`` name, and those that these name, in the order of the file."""
    parts, found, open_names = _parts(), set(), _names(nodes)
    while open_names & parts.keys() - found:
        new = open_names & parts.keys() - found
        found |= new
        open_names = _names(parts[name] for name in new)
    return [node for name, node in parts.items() if name in found]


def class_node(made: Class) -> ast.ClassDef:
    """The class as a tree."""
    arguments = ast.arguments(
        [], [ast.arg("self"), *(ast.arg(name) for name in made.arguments)], None, [], [], None, []
    )
    start = ast.Expr(filled("super().__init__(*start)", {"start": ast.List(made.start, ast.Load())}))
    body: list[ast.stmt] = [ast.Expr(ast.Constant(made.doc or f"``{made.module.kind}``."))]
    if made.init or made.arguments or made.start:
        body.append(ast.FunctionDef("__init__", arguments, [start, *made.init], []))
    if made.body is not None:
        inputs = ast.arguments([], [ast.arg("self"), *map(ast.arg, made.body.inputs)], None, [], [], None, [])
        body.append(ast.FunctionDef("forward", inputs, made.body.statements, []))
    base = ast.Attribute(ast.Name("nn"), made.base, ast.Load())
    return ast.ClassDef(made.name, [base], [], body, [])


def written(translation: Translation, header: str) -> str:
    """The whole file, formatted."""
    classes: list[ast.stmt] = [class_node(made) for made in translation.classes]
    model = ast.parse(f"def build_model():\n    return {translation.model}()").body
    parts = used_parts(classes)
    functional = ["import paddle.nn.functional as F"] if "F" in _names([*parts, *classes]) else []
    imports = ast.parse("\n".join(["import paddle", *functional, "from paddle import nn"])).body
    if "paddle" not in _names([*parts, *classes]):
        imports = imports[1:]
    tree = ast.Module([ast.Expr(ast.Constant(header)), *imports, *parts, *classes, *model], [])
    return formatted(ast.unparse(ast.fix_missing_locations(tree)))


def formatted(source: str) -> str:
    """``source`` as ruff formats it. Raises ``RuntimeError`` where ruff is missing or refuses."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        raise RuntimeError("ruff formats the port, and is not installed: pip install ruff")
    command = [ruff, "format", "--isolated", f"--line-length={LINE}", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ruff cannot format the port: {done.stderr.strip()}")
    return done.stdout
