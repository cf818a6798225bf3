"""Show the modules of a comparison as a collapsible tree, coloured by verdict. HTML, no framework."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby

from alignment.engine.records.tape import ROOT
from alignment.engine.result import ALIGNED, DIFFERS, INIT, Culprit, Result, Row, terms

RUN = 12  # aligned siblings that are shown individually; a longer run is one line that opens
UNSEEN = "unseen"
QUIET = {ALIGNED: "aligned", UNSEEN: "not compared"}
"""Names of the verdicts that need no attention."""
COLUMNS = {"forward": True, "gradient": False}
"""The headings of the columns, and whether they are forward."""


@dataclass
class Node:
    """One layer of the reference: its rows (all calls, forward and gradients), its inner layers, its faults.

    ``reason`` states why it was not compared, if it was not; ``first`` marks the first difference.
    """

    path: str
    name: str
    rows: list[Row] = field(default_factory=list)
    children: dict[str, Node] = field(default_factory=dict)
    culprits: list[Culprit] = field(default_factory=list)
    kind: str = ""
    reason: str = ""
    open: bool = False
    first: bool = False

    def within(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for child in self.children.values():
            yield from child.within()

    @property
    def verdict(self) -> str:
        """Return the verdict of the node's tensors and of all below it: one that differs decides."""
        rows = [row for node in self.within() for row in node.rows]
        if any(node.culprits for node in self.within()) or not all(row.aligned for row in rows):
            return DIFFERS
        return ALIGNED if rows else UNSEEN

    def worst(self, forward: bool) -> Row | None:
        """Return the row with the largest error of the layer's outputs, or of its gradients."""
        rows = (row for row in self.rows if (row.direction == "forward") == forward)
        return max(rows, key=lambda row: (not row.aligned, _size(row)), default=None)


def _size(row: Row) -> float:
    return math.inf if row.note or math.isnan(row.relative) else row.relative


def grown(result: Result) -> Node:
    """Return the tree of all layers of the reference that were or should have been compared, in the order of the rows.

    It is open along the way to the first difference and to each culprit.
    """
    root = Node(ROOT, ROOT)
    for row in result.rows:
        node = _reached(root, _owner(row))
        node.rows.append(row)
        node.kind = node.kind if row.direction == "parameter gradient" else row.kind
    for item in result.skipped:
        if item.side != "Paddle":  # layers that only the port has are listed in the coverage, under the port's name
            node = _reached(root, item.layer)
            node.kind, node.reason = item.kind, item.reason
    for culprit in result.culprits:
        _reached(root, culprit.layer).culprits.append(culprit)
        _open_to(root, culprit.layer)
    first = result.first_difference
    if first:
        _reached(root, _owner(first)).first = True
        _open_to(root, _owner(first))
    return root


def _owner(row: Row) -> str:
    """Return the layer that a row belongs to; a parameter belongs to the layer that its name starts with."""
    return (row.layer.rpartition(".")[0] or ROOT) if row.direction == "parameter gradient" else row.layer


def _steps(path: str) -> list[str]:
    return [] if path == ROOT else path.split(".")


def _reached(root: Node, path: str) -> Node:
    node, steps = root, _steps(path)
    for depth, name in enumerate(steps, 1):
        node = node.children.setdefault(name, Node(".".join(steps[:depth]), name))
    return node


def _open_to(root: Node, path: str) -> None:
    node = root
    for name in _steps(path):
        node.open = True
        node = node.children[name]


def module_tree(result: Result) -> str:
    """Return the tree as HTML, one element of class ``node`` for each layer."""
    root = grown(result)
    directions = {row.direction == "forward" for row in result.rows}
    headings = [name for name, used in COLUMNS.items() if used in directions]
    if result.rows and all(row.direction == INIT for row in result.rows):
        headings = [INIT]
    columns = "".join(f"<span>{name}</span>" for name in headings)
    head = f'<div class="row head"><span class="name">layer</span>{columns}</div>'
    state = "" if len(directions) > 1 else " narrow"
    own = f'<div class="node {root.verdict}">{_row(root)}</div>' if root.rows or root.culprits else ""
    return f'<div class="tree{state}">{head}{own}{_siblings(root.children.values())}</div>'


def _siblings(nodes: Iterable[Node]) -> str:
    """Return one element per node; long runs of nodes that need no attention are folded."""
    parts = []
    for quiet, group in groupby(nodes, lambda node: node.verdict != DIFFERS and not node.open):
        run = [*group]
        text = "".join(map(_node, run))
        parts.append(_folded(run, text) if quiet and len(run) > RUN else text)
    return "".join(parts)


def _folded(run: Sequence[Node], text: str) -> str:
    verdicts = {node.verdict for node in run}
    words = " or ".join(word for verdict, word in QUIET.items() if verdict in verdicts)
    title = f"{len(run)} {words}: {run[0].name} to {run[-1].name}"
    return f'<details class="run"><summary class="row"><i></i>{escape(title)}</summary>{text}</details>'


def _node(node: Node) -> str:
    if not node.children:
        return f'<div class="node leaf {node.verdict}">{_row(node)}</div>'
    state = " open" if node.open else ""
    inside = f'<div class="inside">{_siblings(node.children.values())}</div>'
    return f'<details class="node {node.verdict}"{state}><summary>{_row(node)}</summary>{inside}</details>'


def _row(node: Node) -> str:
    """Return name, kind, calls, faults, and the worst error forward and backward."""
    calls = len({row.call for row in node.rows if row.direction == "forward"})
    notes = [node.kind, f"{calls} calls" if calls > 1 else "", _count(node), node.reason]
    badges = "".join(f'<b class="badge">{escape(culprit.kind)}</b>' for culprit in node.culprits)
    badges += '<b class="badge first">first difference</b>' if node.first else ""
    words = "".join(f"<small>{escape(note)}</small>" for note in notes if note)
    return (
        f'<div class="row" title="{escape(node.path)}"><i></i>'
        f'<span class="name"><span>{escape(node.name)}</span>{badges}{words}</span>'
        f"{_error(node.worst(True))}{_error(node.worst(False))}</div>"
    )


def _count(node: Node) -> str:
    """Return the number of layers below that differ; empty if none does."""
    below = [inner for child in node.children.values() for inner in child.within() if inner.rows]
    wrong = sum(not all(row.aligned for row in inner.rows) for inner in below)
    return f"{wrong} of {len(below)} inside differ" if wrong else ""


def _error(row: Row | None) -> str:
    if row is None:
        return '<span class="none"></span>'
    call = f", call {row.call + 1}" if row.call else ""
    explained = f"limit {row.allowed:.1e}, {terms(row.direction).explained} {row.floor:.1e}"
    title = f"{row.layer}{call}, {row.direction}: {row.note or explained}"
    text = "&ne;" if row.note else f"{row.relative:.1e}" if row.relative else "exact"
    return f'<span class="error {row.verdict}" title="{escape(title)}">{text}</span>'
