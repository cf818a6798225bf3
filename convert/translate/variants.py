"""Merge modules of one class of the reference that differ by a child, an input or a switch. No framework.

    self.downsample = Downsample(dim) if downsample else None         a child that some of them have
    def forward(self, x, shortcut=None):                              an input that some of them get
        if shortcut is None:
            shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)

The common source also contains the parts that some of them lack. The numbers of a missing part are marked ``absent``:
any value is allowed.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TypeGuard, TypeVar

from convert.translate.literals import Masked, is_number, notes
from convert.translate.merging import Instance

LIKENESS = 0.6
"""Share of the statements of the shorter source that must also be in the other one."""
MOST_BRANCHES = 3
"""Most places in which two forward methods may differ."""

Node = TypeVar("Node", bound=ast.AST)


def joined(groups: list[list[Instance]], is_identity: Callable[[Instance, str], bool]) -> list[list[Instance]]:
    """Merge similar ``groups`` by giving them one source. The modules of a group have the same class and source.

    ``is_identity`` returns whether the child of that name does nothing in the reference's module.
    """
    groups = list(groups)
    while True:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))]
        plans = [(i, j, plan) for i, j in pairs if (plan := _Plan.of(groups[i], groups[j], is_identity)) is not None]
        if not plans:
            return groups
        first, second, plan = max(plans, key=lambda found: found[2].likeness)
        plan.apply()
        groups[first] = [*groups[first], *groups[second]]
        del groups[second]


@dataclass
class _Piece:
    """Corresponding statements of both sides.

    ``test`` is true where those of ``second`` run. Without a test, the additional statements of one side run in both.
    """

    first: list[ast.stmt]
    second: list[ast.stmt]
    equal: bool
    test: ast.expr | None = None


@dataclass
class _Plan:
    """A plan to give two groups one source."""

    groups: tuple[list[Instance], list[Instance]]
    init: list[tuple[str, bool, bool]]  # key, and which side has it
    identities: set[str]  # children that some have and that do nothing in the others
    settled: set[str]  # children whose replacement an earlier plan has decided
    pieces: list[_Piece] = field(default_factory=list)
    prelude: tuple[str, str] | None = None  # an input that one side lacks, and its value there
    flag: str = ""
    flag_of_second: bool = True
    likeness: float = 0.0

    @classmethod
    def of(
        cls, first: list[Instance], second: list[Instance], is_identity: Callable[[Instance, str], bool]
    ) -> _Plan | None:
        """Return the plan; ``None`` if one class would not be clearer than two."""
        ours, theirs = first[0], second[0]
        if ours.body is None or theirs.body is None or ours.base != theirs.base or _text(ours.start, theirs.start):
            return None
        if len(ours.forward.inputs) > len(theirs.forward.inputs):
            return cls.of(second, first, is_identity)
        if not _inputs_fit(ours, theirs):
            return None
        init = _init(ours, theirs)
        if init is None:
            return None
        made = {_key(statement): statement for one in (ours, theirs) for statement in one.init}
        identities, settled = set(), set()
        for key, here, there in init:
            if here and there:
                continue
            if choice := _choice_of(made[key]):
                settled.add(key)
                if not isinstance(choice.orelse, ast.Constant):
                    identities.add(key)
            elif all(is_identity(one, key) for one in (second if here else first)):
                identities.add(key)
        plan = cls((first, second), init, identities, settled)
        return plan if plan._forward(ours, theirs) else None

    def _forward(self, ours: Instance, theirs: Instance) -> bool:
        statements = _guarded(ours, theirs), _guarded(theirs, ours)
        texts = [[_dump(statement) for statement in side] for side in statements]
        self.pieces = [
            _Piece(statements[0][a:b], statements[1][c:d], kind == "equal")
            for kind, a, b, c, d in SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
        ]
        self._default_input(ours, theirs)
        common = sum(len(piece.second) for piece in self.pieces if piece.equal)
        common += sum(here and there for _, here, there in self.init)
        smaller = min(len(one.init) + len(side) for one, side in zip((ours, theirs), statements, strict=True))
        self.likeness = common / smaller
        others = [piece for piece in self.pieces if not piece.equal]
        if self.likeness < LIKENESS or len(others) > MOST_BRANCHES:
            return False
        while not all(self._test(piece, ours, theirs) for piece in others):
            # a child that does nothing distinguishes the sides if it is None instead
            used = _children([s for piece in others if piece.test is None for s in (*piece.first, *piece.second)])
            if not (told := sorted((self.identities & used) - self.settled)):
                return False
            self.identities.remove(told[0])
        return True

    def _default_input(self, ours: Instance, theirs: Instance) -> None:
        """Plan ``if shortcut is None: shortcut = x`` if that makes the statements of both sides equal."""
        extra = _always_given(theirs)[len(ours.forward.inputs) :]
        if len(extra) != 1 or extra[0] in _names(ours.forward.statements):
            return
        for name in ours.forward.inputs:
            if name in _stored(ours.forward.statements):
                continue
            changed = [piece for piece in self.pieces if not piece.equal]
            if changed and all(
                [*map(_dump, piece.first)] == [_dump(_renamed(s, extra[0], name)) for s in piece.second]
                for piece in changed
            ):
                for piece in changed:
                    piece.equal = True
                self.prelude = (extra[0], name)
                return

    def _test(self, piece: _Piece, ours: Instance, theirs: Instance) -> bool:
        """Find a test that distinguishes both sides at ``piece``; return ``False`` if there is none."""
        piece.test = None
        only_ours = [key for key, here, there in self.init if here and not there]
        only_theirs = [key for key, here, there in self.init if there and not here]
        if self._calls_nothing(piece, {*only_ours, *only_theirs}, theirs if piece.first else ours):
            return True
        mentioned = _children([*piece.first, *piece.second])
        for key in sorted((*only_theirs, *only_ours), key=lambda key: key not in mentioned):
            if key not in self.identities | self.settled:
                test = ast.parse(f"self.{key} is {'not ' if key in only_theirs else ''}None", mode="eval").body
                piece.test = test
                return True
        extra = _always_given(theirs)[len(ours.forward.inputs) :]
        if extra and extra[0] not in _stored([*ours.forward.statements, *theirs.forward.statements]):
            piece.test = ast.parse(f"{extra[0]} is not None", mode="eval").body
            return True
        if not self.flag:
            self.flag = _setting(*self.groups)
        if not self.flag:
            self.flag, self.flag_of_second = _setting(*reversed(self.groups)), False
        piece.test = ast.Name("flag") if self.flag else None
        return bool(self.flag)

    def _calls_nothing(self, piece: _Piece, lacking: set[str], other: Instance) -> bool:
        """Return whether one side's additional statements do nothing in the other: ``Identity``, tests of a child."""
        if piece.first and piece.second:
            return False
        known = {*other.forward.inputs, *_stored(other.forward.statements)}
        return all(
            (_called_on_itself(statement) in self.identities and _stored([statement]) <= known)
            or self._none(_tested(statement), lacking)
            or _names_again(statement, other)
            for statement in [*piece.first, *piece.second]
        )

    def _none(self, child: str | None, lacking: set[str]) -> bool:
        """Return whether ``child`` is ``None`` in the modules that lack it; decide so if it is undecided."""
        if child in self.identities and child not in self.settled:
            self.identities.remove(child)
        return child in lacking - self.identities

    def apply(self) -> None:
        """Give all modules of both groups one source."""
        originals = [copy.deepcopy(group[0]) for group in self.groups]
        parts = [[self._parts(one, second) for one in group] for second, group in enumerate(self.groups)]
        inputs = self.groups[1][0].forward.inputs
        optional = len(inputs) - len(self.groups[0][0].forward.inputs) + self.groups[0][0].forward.optional
        optional = max(optional, self.groups[1][0].forward.optional)
        for second, group in enumerate(self.groups):
            for one, (init, forward) in zip(group, parts[second], strict=True):
                one.init = self._joined_init(init, originals, bool(second))
                one.forward.statements = self._joined_forward(forward, bool(second))
                one.forward.inputs, one.forward.optional = [*inputs], optional

    def _parts(self, one: Instance, second: int) -> tuple[dict[str, ast.stmt], list[list[ast.stmt]]]:
        """Return the constructor's statements by key, and the forward method's by piece."""
        init = {_key(statement): statement for statement in one.init}
        statements, forward = _guarded(one, self.groups[1 - second][0]), []
        for piece in self.pieces:
            count = len(piece.second if second else piece.first)
            forward.append(statements[:count])
            statements = statements[count:]
        return init, forward

    def _joined_init(self, init: dict[str, ast.stmt], originals: list[Instance], second: bool) -> list[ast.stmt]:
        made = {_key(statement): statement for one in originals[::-1] for statement in one.init}
        others = {_key(statement): statement for statement in originals[0 if second else 1].init}
        result = []
        for key, _, _ in self.init:
            statement, other = init.get(key), others.get(key)
            choices = [choice for s in (statement, other) if s is not None and (choice := _choice_of(s))]
            if not choices and statement is not None and other is not None:
                same = _dump(statement) == _dump(other)
                result.append(statement if same else _with_switches(statement, other, key) or statement)
                continue
            orelse = choices[0].orelse if choices else self._in_place_of(key)
            present = statement is not None
            result.append(_wrapped(statement or _absent(made[key]), key, present, orelse))
        return result

    def _in_place_of(self, key: str) -> ast.expr:
        return ast.parse("nn.Identity()" if key in self.identities else "None", mode="eval").body

    def _joined_forward(self, forward: list[list[ast.stmt]], second: bool) -> list[ast.stmt]:
        result: list[ast.stmt] = []
        if self.prelude is not None:
            result += ast.parse(f"if {self.prelude[0]} is None: {self.prelude[0]} = {self.prelude[1]}").body
        for piece, statements in zip(self.pieces, forward, strict=True):
            if piece.equal and self.prelude is not None and not second:
                pairs = zip(statements, piece.second, strict=True)
                statements = [_with_numbers(mine, theirs) for mine, theirs in pairs]
            if piece.equal:
                result += statements
                continue
            others = [_absent(statement) for statement in (piece.first if second else piece.second)]
            if piece.test is None:
                result += statements or others
                continue
            here, there = (others, statements) if second else (statements, others)
            if isinstance(piece.test, ast.Name) and not self.flag_of_second:
                here, there = there, here
            result.append(_branch(self._condition(piece.test, second), there, here))
        return result

    def _condition(self, test: ast.expr, second: bool) -> ast.expr:
        return _switch(second == self.flag_of_second, self.flag) if isinstance(test, ast.Name) else copy.deepcopy(test)


def _text(ours: list[ast.expr], theirs: list[ast.expr]) -> bool:
    """Return whether two lists of expressions differ in more than numbers."""
    return [*map(_dump, ours)] != [*map(_dump, theirs)]


def _dump(node: ast.AST) -> str:
    return ast.dump(Masked().visit(copy.deepcopy(node)))


def _inputs_fit(ours: Instance, theirs: Instance) -> bool:
    """Return whether ``theirs`` takes the inputs of ``ours``, possibly followed by more."""
    mine, more = ours.forward.inputs, theirs.forward.inputs
    if ours.forward.listed != theirs.forward.listed or len(ours.forward.sizes) != len(theirs.forward.sizes):
        return False
    if mine == more:
        return True
    return not ours.forward.listed and not ours.forward.sizes and more[: len(mine)] == mine


def _always_given(one: Instance) -> list[str]:
    """Return the inputs that are not optional."""
    return one.forward.inputs[: len(one.forward.inputs) - one.forward.optional]


def _init(ours: Instance, theirs: Instance) -> list[tuple[str, bool, bool]] | None:
    """Return what both constructors make, in order; ``None`` if they make the same attribute in different ways."""
    mine, more = ({_key(statement): statement for statement in one.init} for one in (ours, theirs))
    if len(mine) < len(ours.init) or len(more) < len(theirs.init):
        return None
    for key in mine.keys() & more.keys():
        if _dump(_plain(mine[key])) != _dump(_plain(more[key])) and not _pairs(mine[key], more[key], key):
            return None
    result: list[tuple[str, bool, bool]] = []
    for kind, a, b, c, d in SequenceMatcher(None, [*mine], [*more], autojunk=False).get_opcodes():
        if kind == "equal":
            result += [(key, True, True) for key in [*mine][a:b]]
            continue
        result += [(key, True, False) for key in [*mine][a:b]] + [(key, False, True) for key in [*more][c:d]]
    lacking = [key for key, here, there in result if not (here and there)]
    if len({key for key, _, _ in result}) < len(result) or not all(key.isidentifier() for key in lacking):
        return None
    return result


def _key(statement: ast.stmt) -> str:
    """Return the attribute that a statement of a constructor sets, otherwise the statement."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
        return _attribute_of_self(statement.targets[0]) or _dump(statement)
    return _dump(statement)


def _choice_of(statement: ast.AST) -> ast.IfExp | None:
    """Return the conditional expression of a statement that makes a child that some modules lack."""
    return statement.value if isinstance(statement, ast.Assign) and _is_choice(statement.value) else None


def _plain(statement: ast.stmt) -> ast.stmt:
    """Return the statement without its condition."""
    if isinstance(statement, ast.Assign) and _is_choice(statement.value):
        return ast.Assign(statement.targets, statement.value.body)
    return statement


def _wrapped(statement: ast.stmt, key: str, present: bool, orelse: ast.expr) -> ast.stmt:
    """Return ``self.key = value if key else orelse``."""
    if _choice_of(statement):
        return statement
    assert isinstance(statement, ast.Assign)  # only attributes may be lacking
    choice = _choice(present, statement.value, orelse, key)
    notes(choice.test)["named"] = True
    return ast.Assign(statement.targets, choice)


def _pairs(mine: ast.stmt, theirs: ast.stmt, key: str) -> bool:
    """Return whether both make a child that differs by layers that do nothing in one of them."""
    if _choice_of(mine) or _choice_of(theirs):
        return False
    one, other = _with_switches(mine, theirs, key), _with_switches(theirs, mine, key)
    return one is not None and other is not None and _dump(one) == _dump(other)


def _with_switches(mine: ast.stmt, theirs: ast.stmt, key: str) -> ast.stmt | None:
    """Return ``mine`` with ``nn.ReLU() if act else nn.Identity()`` where one has the layer, the other not."""
    if not isinstance(mine, ast.Assign) or not isinstance(theirs, ast.Assign):
        return None
    value = _paired(mine.value, theirs.value, key)
    return None if value is None else ast.Assign(mine.targets, value)


def _paired(mine: ast.expr, theirs: ast.expr, role: str) -> ast.expr | None:
    if _dump(mine) == _dump(theirs) or (_is_choice(mine) and _is_side(theirs, mine)):
        return mine
    if _is_choice(theirs):
        if not _is_side(mine, theirs):
            return None
        nothing = _dump(mine) == _dump(theirs.orelse)
        return _choice(not nothing, _absent(theirs.body) if nothing else mine, theirs.orelse, role)
    if not isinstance(mine, ast.Call) or not isinstance(theirs, ast.Call):
        return None
    if _is_nothing(mine) or _is_nothing(theirs):
        nothing = _is_nothing(mine)
        return _choice(not nothing, _absent(theirs) if nothing else mine, mine if nothing else theirs, role)
    words = [[word.arg for word in call.keywords] for call in (mine, theirs)]
    if _dump(mine.func) != _dump(theirs.func) or len(mine.args) != len(theirs.args) or words[0] != words[1]:
        return None
    result = copy.copy(mine)
    result.args, result.keywords = [], [copy.copy(word) for word in mine.keywords]
    for one, other in zip(mine.args, theirs.args, strict=True):
        if (pair := _paired(one, other, "act")) is None:
            return None
        result.args.append(pair)
    for word, other in zip(result.keywords, theirs.keywords, strict=True):
        if (pair := _paired(word.value, other.value, "act")) is None:
            return None
        word.value = pair
    return result


def _is_choice(node: ast.expr) -> TypeGuard[ast.IfExp]:
    """Return whether ``node`` chooses between a part that some modules have and its replacement in the others."""
    return notes(node).get("lacking", False)


def _is_side(node: ast.expr, choice: ast.IfExp) -> bool:
    return _dump(node) in (_dump(choice.body), _dump(choice.orelse))


def _is_nothing(node: ast.expr) -> bool:
    return ast.unparse(node) == "nn.Identity()"


def _choice(chosen: bool, value: ast.expr, orelse: ast.expr, role: str) -> ast.IfExp:
    result = ast.IfExp(_switch(chosen, role), value, copy.deepcopy(orelse))
    notes(result)["lacking"] = True
    return result


def _switch(on: bool, role: str) -> ast.Constant:
    """Return ``on`` as an argument, which is left out if it is False."""
    node = ast.Constant(on)
    notes(node).update({"role": role, "default": False, "switch": True})
    return node


def _absent(node: Node) -> Node:
    """Return a copy whose numbers may have any value and in which an optional child is missing."""
    copied = copy.deepcopy(node)
    choice = _choice_of(copied)
    if choice and is_number(choice.test):
        choice.test.value = False
    for inner in ast.walk(choice.body if choice else copied):
        if is_number(inner):
            notes(inner)["absent"] = True
    return copied


def _guarded(one: Instance, other: Instance) -> list[ast.stmt]:
    """Return the statements of ``one``, with those put under a test of a child that are under one in ``other``."""
    statements = [*one.forward.statements]
    plain = {_key(statement) for statement in one.init if not _choice_of(statement)}
    for branch in other.forward.statements:
        if not isinstance(branch, ast.If) or _tested(branch) not in plain:
            continue
        wanted = [_dump(inner) for inner in branch.body]
        for start in range(len(statements) - len(wanted) + 1):
            if [_dump(inner) for inner in statements[start : start + len(wanted)]] == wanted:
                found = ast.If(copy.deepcopy(branch.test), statements[start : start + len(wanted)], [])
                statements[start : start + len(wanted)] = [found]
                break
    return statements


def _tested(statement: ast.stmt) -> str | None:
    """Return ``child`` of ``if self.child is not None: ...`` without an ``else``; otherwise ``None``."""
    if not isinstance(statement, ast.If) or statement.orelse:
        return None
    text = ast.unparse(statement.test)
    child = text.removeprefix("self.").removesuffix(" is not None")
    return child if text == f"self.{child} is not None" and child.isidentifier() else None


def _called_on_itself(statement: ast.stmt) -> str | None:
    """Return ``child`` of ``x = self.child(x)``; otherwise ``None``."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
        return None
    call = statement.value
    same = len(call.args) == 1 and ast.unparse(call.args[0]) == ast.unparse(statement.targets[0])
    return _attribute_of_self(call.func) if same else None


def _attribute_of_self(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return None


def _names_again(statement: ast.stmt, other: Instance) -> bool:
    """Return whether it is ``shortcut = x`` of an input, and ``other`` has no name ``shortcut``."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Name):
        return False
    taken = {*other.forward.inputs, *_names(other.forward.statements)}
    return statement.value.id in other.forward.inputs and not taken & _stored([statement])


def _children(statements: list[ast.stmt]) -> set[str]:
    """Return the attributes of ``self`` that ``statements`` use."""
    nodes = (node for statement in statements for node in ast.walk(statement))
    return {name for node in nodes if (name := _attribute_of_self(node)) is not None}


def _names(statements: list[ast.stmt]) -> set[str]:
    return {node.id for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _stored(statements: list[ast.stmt]) -> set[str]:
    nodes = (node for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {node.id for node in nodes if isinstance(getattr(node, "ctx", None), ast.Store)}


def _renamed(statement: ast.stmt, old: str, new: str) -> ast.stmt:
    copied = copy.deepcopy(statement)
    for node in ast.walk(copied):
        if isinstance(node, ast.Name) and node.id == old:
            node.id = new
    return copied


def _with_numbers(mine: ast.stmt, theirs: ast.stmt) -> ast.stmt:
    """Return ``theirs`` with the numbers of ``mine``, which has the same structure."""
    copied = copy.deepcopy(theirs)
    numbers = (node for node in ast.walk(mine) if is_number(node))
    for node, number in zip((node for node in ast.walk(copied) if is_number(node)), numbers, strict=True):
        node.value = number.value
    return copied


def _setting(first: list[Instance], second: list[Instance]) -> str:
    """Return what is off in all of ``first`` and on in all of ``second``: a setting of the reference, or a child."""
    for kept in ("constructor", "settings"):
        for name in getattr(second[0].module, kept):
            values = [[getattr(one.module, kept).get(name) for one in group] for group in (first, second)]
            if name != "training" and all(v is True for v in values[1]) and all(v is False for v in values[0]):
                return name
    for name in second[0].module.children:
        held = [[name in one.module.children for one in group] for group in (first, second)]
        if name.isidentifier() and all(held[1]) and not any(held[0]):
            return name
    return ""


def _branch(test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt]) -> ast.stmt:
    if body:
        return ast.If(test, body, orelse)
    if isinstance(test, ast.Compare):
        negated = ast.IsNot() if isinstance(test.ops[0], ast.Is) else ast.Is()
        return ast.If(ast.Compare(test.left, [negated], test.comparators), orelse, [])
    return ast.If(ast.UnaryOp(ast.Not(), test), orelse, [])
