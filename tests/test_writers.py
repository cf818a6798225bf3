"""Everything that is written goes through the atomic writers of ``paddle_dla.storage``; read from the source."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_paddle

ROOT = Path(__file__).parent.parent
PACKAGES = ("paddle_dla", "convert", "alignment", "torch_ref", "scripts")

WRITERS = {"atomic_path", "atomic_paths", "atomic_folder", "new_folder", "export_folder", "TemporaryDirectory"}
# calls that create or replace a file whatever their arguments are, by the last part of their name
WRITE_CALLS = {
    "write_text", "write_bytes", "savefig", "save", "savez", "save_file", "tofile", "FileIO",
    "copy", "copyfile", "copytree", "move", "rename", "replace", "symlink_to", "hardlink_to", "mkstemp",
    "NamedTemporaryFile",
}  # fmt: skip
# the same names on values that are no files: text.replace, dataclasses.replace, array.copy, ...
FILE_OBJECTS = {"os", "shutil", "tempfile", "io"}
UNKNOWN = "w?"  # a mode that is computed may be any
AMBIGUOUS = {"copy", "move", "rename", "replace"}

# file:function -> why what it writes need not appear whole, or who makes it so
ALLOWED = {
    "paddle_dla/storage/destination.py:put": "the writer itself: the one rename",
    "paddle_dla/storage/destination.py:put_back": "the writer itself: the old file, where another of a pair fails",
    "paddle_dla/storage/destination.py:_opened": "the writer itself: a device or a pipe",
    "paddle_dla/storage/destination.py:refuse_unreplaceable": "what the system refuses in any case",
    "paddle_dla/storage/folders.py:atomic_folder": "the writer itself: the old folder is set aside",
    "paddle_dla/storage/folders.py:_take_place": "the writer itself: the one rename",
    "paddle_dla/storage/folders.py:_put_right": "the writer itself: a folder gets its name back",
    "paddle_dla/storage/folders.py:remove": "takes a folder away, whole",
    "paddle_dla/storage/folders.py:_sync": "opens for reading",
    "paddle_dla/storage/regular.py:_open_at_once": "opens for reading",
    "paddle_dla/storage/turn.py:_lock": "opens a folder, for its lock",
    "paddle_dla/models/registry.py:process_as_before": "opens the current folder, to come back to it",
    "paddle_dla/storage/npy.py:write_npy": "its callers make it atomic",
    "paddle_dla/storage/pdparams.py:write_pdparams": "its callers make it atomic",
    "paddle_dla/storage/tensors.py:write_safetensors": "its callers make it atomic",
    "paddle_dla/predict.py:_opened": "called in atomic_path",
    "paddle_dla/terminal.py:_usable": "what goes nowhere",
    "paddle_dla/exporting/runner.py:own_stdout": "what a process prints",
    "paddle_dla/exporting/runner.py:guarded": "what goes nowhere",
    "paddle_dla/terminal.py:_open_descriptors": "what goes nowhere",
    "paddle_dla/terminal.py:_drop_what_is_left": "what goes nowhere",
    "paddle_dla/reports.py:fill_csv": "its callers make it atomic",
    "paddle_dla/data/shard_writer.py:_write_shard": "called in new_folder",
    "paddle_dla/exporting/folder.py:write_record": "called in export_folder",
    "paddle_dla/exporting/exporter.py:add_record": "called in export_folder",
    "paddle_dla/exporting/to_inference.py:write_inference": "called in export_folder",
    "paddle_dla/exporting/to_onnx.py:_save": "called in export_folder",
    "alignment/check_epoch.py:train_both": "what a process prints, as it prints it",
    "alignment/drawn_images.py:write_drawn": "called in TemporaryDirectory",
    "alignment/drawn_images.py:_encoded": "into memory",
    "scripts/make_fashion_mnist.py:write_split": "called in new_folder",
    "paddle_dla/training/checkpoints.py:_write_files": "called in atomic_folder",
    "paddle_dla/training/checkpoints.py:_link": "a link for people, made beside it and renamed",
    "paddle_dla/launching/heartbeat.py:__init__": "in a folder that only the launcher and its ranks have",
    "paddle_dla/launch.py:run": "in a folder that only the launcher and its ranks have",
    "paddle_dla/launch.py:own_folder": "a link for people, made beside it and renamed",
    "paddle_dla/training/hold.py:take": "a lock; what it holds is for people, and goes with it",
    "paddle_dla/exporting/runner.py:open_regular": "opens for reading",
    "paddle_dla/launching/one_rank.py:run": "what a process prints, as it prints it",
    "paddle_dla/data/crew.py:_write": "a file in memory, without a name",
    "paddle_dla/data/shard_tar.py:_opened": "opens for reading",
    "convert/paddle2timm.py:_torch_bytes": "into memory",
    "paddle_dla/training/records.py:__init__": "grows by whole lines; a half one is dropped when it is opened again",
}


def last_name(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def mode_of(call):
    """The mode of an ``open``, ``""`` where none is given: what looks like one, else the second argument."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] or call.args
    texts = [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    modes = [text for text in texts if re.fullmatch(r"[rwaxbt+]{1,4}", text)]
    return modes[0] if modes else "" if len(call.args) < 2 else UNKNOWN


def writes(call):
    name = last_name(call.func)
    if name in ("open", "fdopen"):
        if isinstance(call.func, ast.Attribute) and last_name(call.func.value) == "os":
            return name == "open"
        return bool(set(mode_of(call)) & set("wax+"))
    if name not in WRITE_CALLS or (last_name(getattr(call.func, "value", None)), name) == ("weight_files", "save"):
        return False
    return name not in AMBIGUOUS or last_name(getattr(call.func, "value", None)) in FILE_OBJECTS


def unguarded(source):
    """(function, line) of each call in ``source`` that writes and is not within one of ``WRITERS``."""
    found = []

    def visit(node, function, guarded):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function, guarded = node.name, False
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            guarded = guarded or any(last_name(call.func) in WRITERS for call in calls)
        if isinstance(node, ast.Call) and not guarded and writes(node):
            found.append((function, node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child, function, guarded)

    visit(ast.parse(source), "", False)
    return found


def unguarded_in(packages):
    """``{file:function: line}``."""
    files = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return {
        f"{path.relative_to(ROOT)}:{function}": line
        for path in files
        for function, line in unguarded(path.read_text(encoding="utf-8"))
    }


def test_everything_that_is_written_goes_through_an_atomic_writer():
    assert {place: line for place, line in unguarded_in(PACKAGES).items() if place not in ALLOWED} == {}


def test_no_exception_is_left_over():
    assert set(ALLOWED) - set(unguarded_in(PACKAGES)) == set()


@pytest.mark.parametrize(
    "line",
    [
        "Path(p).write_text(x)", "open(p, 'w')", "open(p, mode='ab')", "p.open('x')", "io.FileIO(p, 'a')",
        "np.save(p, x)", "figure.savefig(p)", "os.replace(a, b)", "shutil.copyfile(a, b)", "gzip.open(p, 'wb')",
        "tarfile.open(p, 'w')", "open(p, mode)", "os.open(p, flags)", "image.save(p)",
    ],
)  # fmt: skip
def test_a_writer_of_its_own_is_seen(line):
    assert unguarded(f"def f():\n    {line}\n") == [("f", 2)]
    assert unguarded(f"def f():\n    with atomic_path(p) as part:\n        {line}\n") == []


@pytest.mark.parametrize("line", ["open(p)", "open(p, 'rb')", "p.open()", "text.replace(a, b)", "replace(x, a=1)"])
def test_reading_is_no_writing(line):
    assert unguarded(f"def f():\n    {line}\n") == []
