"""Names that a port's source cannot use as the reference does. No framework."""

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
"""What ``paddle.nn.Layer`` has under names that ``torch.nn.Module`` leaves free."""
IMPORTED = ("paddle", "nn", "F")
"""What a port's source imports."""
OF_SOURCES = frozenset((*IMPORTED, *dir(builtins)))
"""What a port's source refers to by these names."""


def refused_names(program: Program) -> Iterator[Stop]:
    """The modules, parameters and buffers that Paddle's layers cannot hold under their names; arguments likewise."""
    for name, _ in program.inputs:
        if name in IMPORTED:
            yield Stop("", program.modules[""].place, f"an argument called {name}, which a port imports: rename it")
    for path, module in program.modules.items():
        for name in (*module.children, *(held.name for held in module.held)):
            if name in OF_LAYERS:
                why = f"{name} is an attribute of all of Paddle's layers: give it another name"
                yield Stop(f"{path}.{name}".lstrip("."), module.place, why)


def class_name(name: str) -> str:
    """``name`` as that of a class in a port's source: an identifier that means nothing else there."""
    word = re.sub(r"\W", "", name)
    usable = word.isidentifier() and not keyword.iskeyword(word) and word not in OF_SOURCES
    return word if usable else f"Layer{word}"
