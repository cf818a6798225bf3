"""Who imports whom, read from the source of a tree, and held against a table of rooms; nothing of it is imported."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

FRAMEWORKS = {"torch": "torch", "sympy": "torch", "timm": "timm", "torchvision": "timm", "paddle": "paddle"}
"""Packages, and the words of a table for them."""
COMMAND = 'if __name__ == "__main__"'


@dataclass(frozen=True)
class Room:
    """``files`` as patterns, which ``frameworks`` they may import, which they ``load``, and what rooms they import."""

    name: str
    files: tuple[str, ...]
    frameworks: frozenset[str]
    loads: frozenset[str]
    imports: tuple[str, ...]

    def admits(self, other: Room) -> bool:
        """Whether a file of this room may import one of ``other``, as far as the last column says."""
        return other.name == self.name or any(fnmatchcase(other.name, pattern) for pattern in self.imports)


def read_rooms(table: str) -> list[Room]:
    """The rooms of a table of five columns; a line without a room goes on with the one above it.

    Files are named without ``.py``, and a folder for all that is in it; a name without a folder lies in the folder of
    the one before it. ``-`` is nothing, ``*`` everything below. The first two lines are the heading.
    """
    rows: list[list[str]] = []
    for line in table.strip().splitlines()[2:]:
        cells = [cell.strip() for cell in line.split("|")]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells)]
    return [_room(*row) for row in rows]


def _room(name: str, files: str, frameworks: str, loads: str, imports: str) -> Room:
    paths, folder = [], ""
    for word in files.split():
        folder = word.rpartition("/")[0] or folder
        paths.append(word if "/" in word or not folder else f"{folder}/{word}")
    words = [tuple(word for word in cell.split() if word != "-") for cell in (frameworks, loads, imports)]
    return Room(name, tuple(paths), frozenset(words[0]), frozenset(words[1]), words[2])


@dataclass(frozen=True)
class Import:
    """An ``import`` of a file: the name, the module of the tree behind it (``""``: none), and where it stands."""

    name: str
    module: str
    in_function: bool
    for_types: bool


class Tree:
    """The Python files under ``folders`` of ``root``, by module name, and the imports of each."""

    def __init__(self, root: Path, folders: Iterable[str]):
        self.root = root
        found = (path for folder in folders for path in [root / folder, *sorted((root / folder).rglob("*.py"))])
        self.files = {_module(path.relative_to(root)): path for path in found if path.suffix == ".py"}

    def path(self, module: str) -> str:
        """The path of a module, from the root."""
        return self.files[module].relative_to(self.root).as_posix()

    @cached_property
    def imports(self) -> dict[str, list[Import]]:
        """Every import of every module, wherever it stands in the file."""
        return {module: [*self._imports(module)] for module in self.files}

    @cached_property
    def commands(self) -> set[str]:
        """The modules that run as a program."""
        return {module for module, path in self.files.items() if COMMAND in path.read_text(encoding="utf-8")}

    def _imports(self, module: str) -> Iterator[Import]:
        package = module if self.files[module].name == "__init__.py" else module.rpartition(".")[0]
        for node, in_function, for_types in _statements(ast.parse(self.files[module].read_text(encoding="utf-8"))):
            for name in _names(node, package):
                yield Import(name, self._resolved(name, module), in_function, for_types)

    def _resolved(self, name: str, importer: str) -> str:
        """The module of the tree that a name is, or is in; scripts import what lies beside them without a package."""
        beside = f"{importer.rpartition('.')[0]}.{name}"
        for candidate in (name, beside if not self._is_package(importer.rpartition(".")[0]) else name):
            while candidate and candidate not in self.files:
                candidate = candidate.rpartition(".")[0]
            if candidate:
                return "" if candidate == importer else candidate
        return ""

    def _is_package(self, module: str) -> bool:
        return module in self.files


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _statements(
    tree: ast.AST, in_function: bool = False, for_types: bool = False
) -> Iterator[tuple[ast.AST, bool, bool]]:
    """Each import, whether it stands in a function, and whether under ``TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, in_function, for_types
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _statements(ast.Module(node.body, []), in_function, True)
            yield from _statements(ast.Module(node.orelse, []), in_function, for_types)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            yield from _statements(node, in_function or inside, for_types)


def _names(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join(filter(None, [*above, node.module]))
        yield from (f"{base}.{alias.name}" for alias in node.names)


class Layers:
    """A tree whose modules are in ``rooms``: what of it is not as the table says."""

    def __init__(self, tree: Tree, rooms: Sequence[Room]):
        self.tree, self.rooms = tree, rooms
        self.order = {room.name: number for number, room in enumerate(rooms)}

    def room(self, module: str) -> Room | None:
        """The room of a module: the one whose pattern is the longest that matches."""
        path = self.tree.path(module)
        named = [(len(name), room) for room in self.rooms for name in room.files if _names_file(name, path)]
        return max(named, key=lambda pair: pair[0])[1] if named else None

    def strays(self) -> list[str]:
        """Files in no room."""
        return [self.tree.path(module) for module in self.tree.files if self.room(module) is None]

    def unknown(self) -> list[str]:
        """Names of rooms in the last column that name none."""
        names = [room.name for room in self.rooms]
        return [p for room in self.rooms for p in room.imports if not any(fnmatchcase(name, p) for name in names)]

    def unused(self) -> list[str]:
        """Names of files in the table that name none."""
        paths = [self.tree.path(module) for module in self.tree.files]
        return [name for room in self.rooms for name in room.files if not any(_names_file(name, p) for p in paths)]

    def wrong_ways(self) -> list[str]:
        """Imports of a room that stands above, or that the importer's row does not name."""
        found = []
        for module, imports in self.tree.imports.items():
            for target in dict.fromkeys(one.module for one in imports if one.module):
                mine, other = self.room(module), self.room(target)
                if mine and other and not (self.order[mine.name] <= self.order[other.name] and mine.admits(other)):
                    found.append(f"{module} ({mine.name}) imports {target} ({other.name})")
        return found

    def foreign(self) -> list[str]:
        """Frameworks that are imported, in whatever part of a file, where the table has them not."""
        found = []
        for module, imports in self.tree.imports.items():
            named, room = {one.name.partition(".")[0] for one in imports}, self.room(module)
            wrong = [name for name in FRAMEWORKS if name in named and room and FRAMEWORKS[name] not in room.frameworks]
            found += [f"{module} ({room.name}) imports {name}" for name in wrong]
        return found

    def imported_commands(self) -> list[str]:
        """Imports of what runs as a program."""
        return [
            f"{module} imports {one}"
            for module, imports in self.tree.imports.items()
            for one in sorted({each.module for each in imports} & self.tree.commands)
        ]

    def circles(self, in_functions: bool, without: Collection[tuple[str, str]] = ()) -> list[str]:
        """Modules that import one another, each circle once, as far as it can be told from one of its modules.

        ``in_functions``: with the imports that stand in functions. ``without``: imports that do not count.
        """
        graph = {
            module: [
                one.module
                for one in imports
                if one.module and not one.for_types and (in_functions or not one.in_function)
                if (module, one.module) not in without
            ]
            for module, imports in self.tree.imports.items()
        }
        return [" -> ".join(circle) for circle in _circles(graph)]

    def living_without(self, blocked: Collection[str]) -> list[str]:
        """Modules of the rooms that load none of ``blocked``."""
        return [module for module in self.tree.files if (room := self.room(module)) and not room.loads & {*blocked}]


def _names_file(name: str, path: str) -> bool:
    return fnmatchcase(path, f"{name}.py") or path.startswith(f"{name}/")


def _circles(graph: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """A shortest circle through a module of each group that import one another."""
    done: set[str] = set()
    for start in graph:
        circle = _way_back(graph, start) if start not in done else None
        if circle:
            done |= {*circle}
            yield circle


def _way_back(graph: Mapping[str, Sequence[str]], start: str) -> list[str] | None:
    ways = [[start]]
    seen: set[str] = set()
    for way in ways:  # grows meanwhile: breadth first
        for target in graph[way[-1]]:
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return None
