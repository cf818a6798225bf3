"""Compare two records that ``record.py`` made on other machines; needs neither torch nor Paddle.

Usage::

    python alignment/compare.py A B [--json FILE] [--html FILE] [--full]

``A`` is the folder of the torch side, ``B`` that of the Paddle side. Exit codes: 0 aligned, 1 not, or a record is
unreadable, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from alignment.engine.forward import compare_tapes
from alignment.engine.noise import NoiseFloor
from alignment.engine.page import write_html
from alignment.engine.report import text, write_json
from alignment.engine.result import Result
from alignment.engine.tape_file import TapeError, load_tape


def compare_records(torch_folder: str, paddle_folder: str) -> Result:
    """The Paddle side against the torch side. Raises ``TapeError`` where a record is missing or damaged."""
    exact, facts, errors = load_tape(torch_folder)
    if errors is None:
        raise TapeError(f"{torch_folder} is no record of the torch side: it has no noise floor; is it the second one?")
    port, port_facts, _ = load_tape(paddle_folder)
    floor = NoiseFloor("float64", errors)
    result = compare_tapes(f"{facts['model']}: forward, timm against Paddle", exact, port, floor)
    result.facts = {
        **{f"torch side, {name}": value for name, value in facts.items()},
        **{f"Paddle side, {name}": value for name, value in port_facts.items()},
    }
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.split("\n")[0])
    parser.add_argument("torch_folder", metavar="A")
    parser.add_argument("paddle_folder", metavar="B")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured")
    parser.add_argument("--html", metavar="FILE", help="write a page with a picture")
    parser.add_argument("--full", action="store_true", help="print every row of the table")
    args = parser.parse_args(argv)
    try:
        result = compare_records(args.torch_folder, args.paddle_folder)
    except TapeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        write_json([result], args.json)
    if args.html:
        write_html([result], args.html)
    print(text(result, fold=not args.full))
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
