"""Compare two tapes of models whose layers have the same names. No framework."""

from __future__ import annotations

from alignment.engine.judging.gradients import ParameterGradient, gradient_rows, parameter_rows
from alignment.engine.judging.limits import NoiseFloor
from alignment.engine.judging.outputs import output_rows, same_names
from alignment.engine.records.tape import Tape
from alignment.engine.result import Result


def compare_tapes(title: str, reference: Tape, port: Tape, floor: NoiseFloor, backward: bool = False) -> Result:
    """Compare ``port`` with ``reference`` call by call, pairing layers by path.

    A call that exists on one side only is a difference; layers that one side lacks are listed as skipped. With
    ``backward``, gradients are compared too; those of parameters as recorded, by name.
    """
    calls, skipped = same_names(reference, port)
    result = Result(title, floor.dtype, [*output_rows(reference, port, floor, calls)], skipped)
    if backward:
        result.rows += gradient_rows(reference, port, floor, calls)
        gradients = (
            ParameterGradient(name, name, reference.get(ref), ref, _of(port, name))
            for name, ref in reference.param_grads.items()
        )
        result.rows += parameter_rows(gradients, floor)
    return result


def _of(port: Tape, name: str):  # noqa: ANN202 - an array or None
    return port.get(port.param_grads[name]) if name in port.param_grads else None
