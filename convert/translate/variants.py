"""Modules of one class of the reference that differ by a child, an input or a switch, as one class. No framework.

    self.downsample = Downsample(dim) if downsample else None         a child that some of them have
    def forward(self, x, shortcut=None):                              an input that some of them are given
        if shortcut is None:
            shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)

What some of them lack stands in the source of all, with numbers that are ``absent`` there: any value serves.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from convert.translate.literals import Masked, is_number
from convert.translate.merging import Instance

LIKENESS = 0.6
"""Of the statements of the shorter source, those that must be in the other one too."""
MOST_BRANCHES = 3
"""Places in which two forward methods may differ."""


def joined(groups: list[list[Instance]], is_identity: Callable[[Instance, str], bool]) -> list[list[Instance]]:
    """``groups`` of modules of one class and one source each; those that are alike are given one source.

    ``is_identity``: whether the child of that name does nothing in the reference's module.
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
    """Statements of both sides that stand for one another; ``test``: holds where those of ``second`` run."""

    first: list[ast.stmt]
    second: list[ast.stmt]
    equal: bool
    test: ast.expr | None = None
    unconditional: bool = False


@dataclass
class _Plan:
    """How two groups come to one source."""

    groups: tuple[list[Instance], list[Instance]]
    init: list[tuple[str, bool, bool]]  # key, and which side has it
    identities: set[str]  # the children that some have, and that do nothing in the others
    settled: set[str]  # those of which an earlier plan says what stands in their place
    pieces: list[_Piece] = field(default_factory=list)
    prelude: tuple[str, str] | None = None  # an input that one side lacks, and what it is there
    flag: str = ""
    flag_of_second: bool = True
    likeness: float = 0.0

    @classmethod
    def of(
        cls, first: list[Instance], second: list[Instance], is_identity: Callable[[Instance, str], bool]
    ) -> _Plan | None:
        """``None`` where one class would not be clearer than two."""
        ours, theirs = first[0], second[0]
        if ours.body is None or theirs.body is None or ours.base != theirs.base or _text(ours.start, theirs.start):
            return None
        if len(ours.body.inputs) > len(theirs.body.inputs):
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
            if _optional(made[key]):
                settled.add(key)
                if not isinstance(made[key].value.orelse, ast.Constant):
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
            # a child that does nothing tells the sides apart where it is None instead
            used = _children([s for piece in others if piece.test is None for s in (*piece.first, *piece.second)])
            if not (told := sorted((self.identities & used) - self.settled)):
                return False
            self.identities.remove(told[0])
        return True

    def _default_input(self, ours: Instance, theirs: Instance) -> None:
        """``if shortcut is None: shortcut = x`` where that makes the statements of both sides the same."""
        extra = _always_given(theirs)[len(ours.body.inputs) :]
        if len(extra) != 1 or extra[0] in _names(ours.body.statements):
            return
        for name in ours.body.inputs:
            if name in _stored(ours.body.statements):
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
        """Find what tells both sides apart where ``piece`` stands; ``False`` where nothing does."""
        piece.test, piece.unconditional = None, False
        only_ours = [key for key, here, there in self.init if here and not there]
        only_theirs = [key for key, here, there in self.init if there and not here]
        if self._calls_nothing(piece, {*only_ours, *only_theirs}, theirs if piece.first else ours):
            piece.unconditional = True
            return True
        mentioned = _children([*piece.first, *piece.second])
        for key in sorted((*only_theirs, *only_ours), key=lambda key: key not in mentioned):
            if key not in self.identities | self.settled:
                test = ast.parse(f"self.{key} is {'not ' if key in only_theirs else ''}None", mode="eval").body
                piece.test = test
                return True
        extra = _always_given(theirs)[len(ours.body.inputs) :]
        if extra and extra[0] not in _stored([*ours.body.statements, *theirs.body.statements]):
            piece.test = ast.parse(f"{extra[0]} is not None", mode="eval").body
            return True
        if not self.flag:
            self.flag = _switch(*self.groups)
        if not self.flag:
            self.flag, self.flag_of_second = _switch(*reversed(self.groups)), False
        piece.test = ast.Name("flag") if self.flag else None
        return bool(self.flag)

    def _calls_nothing(self, piece: _Piece, lacking: set[str], other: Instance) -> bool:
        """Whether all that one side does more does nothing in the other: calls of ``Identity``, tests of a child."""
        if piece.first and piece.second:
            return False
        known = {*other.body.inputs, *_stored(other.body.statements)}
        return all(
            (_called_on_itself(statement) in self.identities and _stored([statement]) <= known)
            or self._none(_tested(statement), lacking)
            or _names_again(statement, other)
            for statement in [*piece.first, *piece.second]
        )

    def _none(self, child: str | None, lacking: set[str]) -> bool:
        """Whether ``child``, which some lack, is ``None`` there; it is made so where that is open."""
        if child in self.identities and child not in self.settled:
            self.identities.remove(child)
        return child in lacking - self.identities

    def apply(self) -> None:
        """Give all modules of both groups one source."""
        originals = [copy.deepcopy(group[0]) for group in self.groups]
        parts = [[self._parts(one, second) for one in group] for second, group in enumerate(self.groups)]
        inputs = self.groups[1][0].body.inputs
        optional = len(inputs) - len(self.groups[0][0].body.inputs) + self.groups[0][0].body.optional
        optional = max(optional, self.groups[1][0].body.optional)
        for second, group in enumerate(self.groups):
            for one, (init, forward) in zip(group, parts[second], strict=True):
                one.init = self._joined_init(init, originals, bool(second))
                one.body.statements = self._joined_forward(forward, bool(second))
                one.body.inputs, one.body.optional = [*inputs], optional

    def _parts(self, one: Instance, second: int) -> tuple[dict[str, ast.stmt], list[list[ast.stmt]]]:
        """The constructor's statements by key, and the forward method's by piece."""
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
        for key, here, there in self.init:
            statement = init.get(key)
            known = next((s for s in (statement, others.get(key)) if s is not None and _optional(s)), None)
            if known is None and here and there:
                same = _dump(statement) == _dump(others[key])
                result.append(statement if same else _with_switches(statement, others[key], key))
                continue
            orelse = known.value.orelse if known is not None else self._in_place_of(key)
            present = statement is not None
            result.append(_wrapped(statement if present else _absent(made[key]), key, present, orelse))
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
            if piece.unconditional:
                result += statements or others
                continue
            here, there = (others, statements) if second else (statements, others)
            if isinstance(piece.test, ast.Name) and not self.flag_of_second:
                here, there = there, here
            result.append(_branch(self._condition(piece, second), there, here))
        return result

    def _condition(self, piece: _Piece, second: bool) -> ast.expr:
        if not isinstance(piece.test, ast.Name):
            return copy.deepcopy(piece.test)
        flag = ast.Constant(second == self.flag_of_second)
        flag.role, flag.default, flag.switch = self.flag, False, True
        return flag


def _text(ours: list[ast.expr], theirs: list[ast.expr]) -> bool:
    """Whether two lists of expressions differ in more than numbers."""
    return [*map(_dump, ours)] != [*map(_dump, theirs)]


def _dump(node: ast.AST) -> str:
    return ast.dump(Masked().visit(copy.deepcopy(node)))


def _inputs_fit(ours: Instance, theirs: Instance) -> bool:
    """Whether ``theirs`` takes what ``ours`` takes, and maybe more behind it."""
    mine, more = ours.body.inputs, theirs.body.inputs
    if ours.body.listed != theirs.body.listed or len(ours.body.sizes) != len(theirs.body.sizes):
        return False
    if mine == more:
        return True
    return not ours.body.listed and not ours.body.sizes and more[: len(mine)] == mine


def _always_given(one: Instance) -> list[str]:
    """The inputs that are not optional."""
    return one.body.inputs[: len(one.body.inputs) - one.body.optional]


def _init(ours: Instance, theirs: Instance) -> list[tuple[str, bool, bool]] | None:
    """What both constructors make, in order; ``None`` where they make one thing in two ways."""
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
    """The attribute that a statement of a constructor sets, else the statement."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
        return _attribute_of_self(statement.targets[0]) or _dump(statement)
    return _dump(statement)


def _optional(statement: ast.stmt) -> bool:
    """Whether the statement makes a child that some modules lack."""
    return isinstance(statement, ast.Assign) and getattr(statement.value, "lacking", False)


def _plain(statement: ast.stmt) -> ast.stmt:
    """The statement without its condition."""
    return ast.Assign(statement.targets, statement.value.body) if _optional(statement) else statement


def _wrapped(statement: ast.stmt, key: str, present: bool, orelse: ast.expr) -> ast.stmt:
    """``self.key = value if key else orelse``."""
    if _optional(statement):
        return statement
    test = ast.Constant(present)
    test.role, test.default, test.switch, test.named = key, False, True, True
    value = ast.IfExp(test, statement.value, copy.deepcopy(orelse))
    value.lacking = True
    return ast.Assign(statement.targets, value)


def _pairs(mine: ast.stmt, theirs: ast.stmt, key: str) -> bool:
    """Whether both make a child that differs by layers which do nothing in one of them."""
    if not isinstance(mine, ast.Assign) or _optional(mine) or _optional(theirs):
        return False
    both = _paired(mine.value, theirs.value, key), _paired(theirs.value, mine.value, key)
    return None not in both and _dump(both[0]) == _dump(both[1])


def _with_switches(mine: ast.stmt, theirs: ast.stmt, key: str) -> ast.stmt:
    """``mine`` with ``nn.ReLU() if act else nn.Identity()`` where one of both has either."""
    return ast.Assign(mine.targets, _paired(mine.value, theirs.value, key))


def _paired(mine: ast.expr, theirs: ast.expr, role: str) -> ast.expr | None:
    if _dump(mine) == _dump(theirs) or (_switched(mine) and _is_side(theirs, mine)):
        return mine
    if _switched(theirs):
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
    args = [_paired(one, other, "act") for one, other in zip(mine.args, theirs.args, strict=True)]
    values = [_paired(one.value, other.value, "act") for one, other in zip(mine.keywords, theirs.keywords, strict=True)]
    if None in args or None in values:
        return None
    result = copy.copy(mine)
    result.args, result.keywords = args, [copy.copy(word) for word in mine.keywords]
    for word, value in zip(result.keywords, values, strict=True):
        word.value = value
    return result


def _switched(node: ast.expr) -> bool:
    return getattr(node, "lacking", False)


def _is_side(node: ast.expr, choice: ast.IfExp) -> bool:
    return _dump(node) in (_dump(choice.body), _dump(choice.orelse))


def _is_nothing(node: ast.expr) -> bool:
    return ast.unparse(node) == "nn.Identity()"


def _choice(chosen: bool, value: ast.expr, orelse: ast.expr, role: str) -> ast.expr:
    test = ast.Constant(chosen)
    test.role, test.default, test.switch = role, False, True
    result = ast.IfExp(test, value, copy.deepcopy(orelse))
    result.lacking = True
    return result


def _absent(statement: ast.AST) -> Any:
    """A copy whose numbers may be any; a child that some lack is lacking."""
    copied = copy.deepcopy(statement)
    if _optional(copied):
        copied.value.test.value = False
    for node in ast.walk(copied.value.body if _optional(copied) else copied):
        if is_number(node):
            node.absent = True
    return copied


def _guarded(one: Instance, other: Instance) -> list[ast.stmt]:
    """Statements of ``one`` in which those stand under a test of a child that stand so in ``other``."""
    statements = [*one.body.statements]
    plain = {_key(statement) for statement in one.init if not _optional(statement)}
    for branch in other.body.statements:
        child = _tested(branch)
        if child not in plain:
            continue
        wanted = [_dump(inner) for inner in branch.body]
        for start in range(len(statements) - len(wanted) + 1):
            if [_dump(inner) for inner in statements[start : start + len(wanted)]] == wanted:
                found = ast.If(copy.deepcopy(branch.test), statements[start : start + len(wanted)], [])
                statements[start : start + len(wanted)] = [found]
                break
    return statements


def _tested(statement: ast.stmt) -> str | None:
    """``child`` of ``if self.child is not None: ...`` without an ``else``."""
    if not isinstance(statement, ast.If) or statement.orelse:
        return None
    text = ast.unparse(statement.test)
    child = text.removeprefix("self.").removesuffix(" is not None")
    return child if text == f"self.{child} is not None" and child.isidentifier() else None


def _called_on_itself(statement: ast.stmt) -> str | None:
    """``child`` of ``x = self.child(x)``."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
        return None
    call = statement.value
    same = len(call.args) == 1 and ast.unparse(call.args[0]) == ast.unparse(statement.targets[0])
    return _attribute_of_self(call.func) if same else None


def _attribute_of_self(node: ast.AST) -> str | None:
    owned = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if owned else None


def _names_again(statement: ast.stmt, other: Instance) -> bool:
    """Whether it is ``shortcut = x`` of an input, and nothing in ``other`` is called ``shortcut``."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Name):
        return False
    taken = {*other.body.inputs, *_names(other.body.statements)}
    return statement.value.id in other.body.inputs and not taken & _stored([statement])


def _children(statements: list[ast.stmt]) -> set[str]:
    """The attributes of ``self`` that ``statements`` use."""
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
    """``theirs`` with the numbers of ``mine``, which has the same shape."""
    copied = copy.deepcopy(theirs)
    numbers = (node for node in ast.walk(mine) if is_number(node))
    for node, number in zip((node for node in ast.walk(copied) if is_number(node)), numbers, strict=True):
        node.value = number.value
    return copied


def _switch(first: list[Instance], second: list[Instance]) -> str:
    """What is off in all of ``first`` and on in all of ``second``: a setting of the reference, or a child."""
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
