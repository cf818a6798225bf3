"""Compare what ``record`` wrote on other machines, or two files of reprod_log.

Usage::

    python alignment/compare.py A B [--json FILE] [--html FILE] [--full]
    python alignment/compare.py A.npy B.npy [--tolerance 1e-6]

``A`` is the folder of the torch side, ``B`` that of the Paddle side. Files of reprod_log are compared name by name, by
the largest relative error of each array. They contain no layers, so the report names none.

Exit codes: 0 aligned, 1 not, or a record is unreadable, 2 usage.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.command import ReportOptions, add_reports, refuse_reports, write_reports
from alignment.engine.offline import compare_records
from alignment.engine.reporting.text import text
from alignment.engine.result import Result
from alignment.reprod_files import SUFFIX, compare_reprod
from paddle_dla.command_parser import CommandParser
from paddle_dla.errors import UserError, WrongValue
from paddle_dla.options import options_of
from paddle_dla.terminal import run_command


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ReportOptions):
    """The inputs: two folders of records, or two files of reprod_log and their largest allowed relative error."""

    torch_folder: str
    paddle_folder: str
    tolerance: float | None = None

    def are_files(self) -> bool:
        """Return whether both are files of reprod_log. Raises ``WrongValue`` for inputs that cannot be compared."""
        files = [Path(path).suffix == SUFFIX for path in (self.torch_folder, self.paddle_folder)]
        if any(files) and not all(files):
            raise WrongValue(f"a folder and a {SUFFIX} file cannot be compared; pass two folders or two files")
        if self.tolerance is not None and not (all(files) and 0 <= self.tolerance < math.inf):
            raise WrongValue(
                f"--tolerance is for {SUFFIX} files, a number of 0 or more; records bring their own noise floor"
            )
        return all(files)


def run(options: CompareOptions) -> Result:
    """Run the comparison. Raises ``UserError`` if an input is unreadable, or the two do not belong together."""
    if options.are_files():
        return compare_reprod(options.torch_folder, options.paddle_folder, options.tolerance)
    return compare_records(options.torch_folder, options.paddle_folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser("compare", __doc__)
    parser.add_argument("torch_folder", metavar="A")
    parser.add_argument("paddle_folder", metavar="B")
    parser.add_argument(
        "--tolerance", type=float, help="largest relative error, for .npy files (default: what rounding explains)"
    )
    add_reports(parser)
    options = options_of(CompareOptions, parser.parse_args(argv))
    try:
        options.are_files()
    except WrongValue as error:
        parser.error(str(error))
    try:
        refuse_reports(options)
        result = run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text(result, fold=not options.full))
    return 0 if write_reports([result], options) and result.passed else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
