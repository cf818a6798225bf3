"""Merge the statements of two modes into one forward method; common statements are written once. No framework.

    x = self.stem(x)
    if self.training:
        aux = self.aux(x)
    x = self.head(x)
    if self.training:
        return x, aux
    return x
"""

from __future__ import annotations

import ast
from difflib import SequenceMatcher


def of_both_modes(evaluation: list[ast.stmt], training: list[ast.stmt]) -> list[ast.stmt]:
    """Return statements that run ``training`` in training mode, and ``evaluation`` otherwise."""
    texts = [[ast.dump(statement) for statement in statements] for statements in (evaluation, training)]
    merged: list[ast.stmt] = []
    for kind, start, end, other_start, other_end in SequenceMatcher(None, *texts, autojunk=False).get_opcodes():
        if kind == "equal":
            merged += evaluation[start:end]
        else:
            merged += _by_mode(evaluation[start:end], training[other_start:other_end])
    return merged


def _by_mode(evaluation: list[ast.stmt], training: list[ast.stmt]) -> list[ast.stmt]:
    mode: ast.expr = ast.Attribute(ast.Name("self", ast.Load()), "training", ast.Load())
    if not training:
        return [ast.If(ast.UnaryOp(ast.Not(), mode), evaluation, [])]
    if isinstance(training[-1], ast.Return):
        return [ast.If(mode, training, []), *evaluation]
    return [ast.If(mode, training, evaluation)]
