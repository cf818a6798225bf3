"""Check the reference's names that a port's source cannot use. No framework."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterator

from convert.translate.plain import Program, Stop

OF_LAYERS = frozenset((
    "_build_once", "_dygraph_call_func", "_modules", "_non_persistent_buffers_set", "_obtain_parameters_buffers",
    "_set_op_attrs", "_startup_program", "_state_dict_impl", "_sub_layers", "_to_impl", "_transform",
    "add_parameter", "add_sublayer", "astype", "backward", "clear_gradients", "create_parameter", "create_tensor",
    "create_variable", "float16", "full", "full_name", "get_sublayer", "load_dict", "named_sublayers",
    "register_forward_post_hook", "register_state_dict_hook", "set_dict", "set_state_dict", "set_sublayer",
    "sharded_state_dict", "sublayers", "to_static_state_dict",
))  # fmt: skip
"""Attributes of ``paddle.nn.Layer`` that ``torch.nn.Module`` does not have."""
IMPORTED = ("paddle", "nn", "F")
"""Names that a port's source imports."""
OF_SOURCES = frozenset((*IMPORTED, *dir(builtins)))
"""Names with a fixed meaning in a port's source."""


def refused_names(program: Program) -> Iterator[Stop]:
    """Yield a stop for each module, parameter, buffer and argument whose name a Paddle layer cannot use."""
    for name, _ in program.inputs:
        if name in IMPORTED:
            yield Stop("", program.modules[""].place, f"an argument called {name}, which a port imports: rename it")
    for path, module in program.modules.items():
        for name in (*module.children, *(held.name for held in module.held)):
            if name in OF_LAYERS:
                why = f"{name} is an attribute of all of Paddle's layers: give it another name"
                yield Stop(f"{path}.{name}".lstrip("."), module.place, why)


def class_name(name: str) -> str:
    """Return ``name`` as a class name for a port's source: an identifier without another meaning there."""
    word = re.sub(r"\W", "", name)
    usable = word.isidentifier() and not keyword.iskeyword(word) and word not in OF_SOURCES
    return word if usable else f"Layer{word}"
