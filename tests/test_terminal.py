"""What a command prints moves no cursor, forges no line, fills no screen; where it cannot print, it says so."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from timm_files import SMALL, small_weights, write_safetensors

from convert.conversion import ConversionError, convert_source
from convert.readers import read_source
from paddle_dla.storage.shown import MOST_SHOWN, shown

pytestmark = pytest.mark.any_paddle

RUN = """
import sys
from paddle_dla.terminal import run_command

def main():
    {body}
    return 0

sys.exit(run_command(main))
"""


def run(body, **options):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": buffered, **options}
    return subprocess.run([sys.executable, "-c", RUN.format(body=body)], check=False, **options)


HOSTILE = ["\x1b[2J", "\x1b]0;title\x07", "\x9b2J", "\x00", "\x08", "\x7f", "\u202e", "\u2066", "\u2028", "\udcff"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_a_terminal_should_not_get_is_escaped(text, stream):
    done = run(f"print('a' + {text!a} + 'b', file=sys.{stream})")
    printed = getattr(done, stream).decode()
    assert printed.isprintable() or printed[:-1].isprintable()
    assert printed == "a" + text.encode("unicode_escape", "surrogatepass").decode() + "b\n"


@pytest.mark.parametrize("text", ["plain", "with\ttab", "two\nlines", "图像", "é", "\u3000"])
def test_what_people_write_stays(text):
    assert run(f"print({text!a})").stdout.decode() == f"{text}\n"


def test_a_bar_can_be_drawn_on_stderr_only():
    assert run("print('a\\rb\\x1b[A', file=sys.stderr)").stderr == b"a\rb\x1b[A\n"
    assert run("print('a\\rb\\x1b[A')").stdout == b"a\\rb\\x1b[A\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_a_character_is_no_traceback(encoding):
    done = run("print('\\u4e2d')", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stdout) == (0, b"\\u4e2d\n")


@pytest.fixture
def full(tmp_path):
    """A device that is always full, of its own."""
    try:
        os.mknod(tmp_path / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    return tmp_path / "full"


@pytest.mark.parametrize("body", ["print('x')", "print('x' * 100_000)", "print('x', flush=True)"])
def test_a_full_stdout_is_one_error(body, full):
    with open(full, "wb", buffering=0) as stdout:
        done = run(body, stdout=stdout)
    assert done.returncode == 1
    assert done.stderr.decode() == "error: cannot write to standard output: No space left on device\n"


def test_a_full_stderr_is_an_error_too(full):
    with open(full, "wb", buffering=0) as stderr:
        assert run("print('x', file=sys.stderr, flush=True)", stderr=stderr).returncode == 1


def test_a_reader_that_left_ends_the_command_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    done = run("print('x' * 100_000)", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("command", ["info", "config --config {config}"])
def test_a_reader_that_left_ends_every_command_without_a_word(command, tmp_path):
    (tmp_path / "c.yaml").write_text("model: {name: dla34}\n")
    name, *arguments = command.format(config=tmp_path / "c.yaml").split()
    flushing = "import builtins, functools; builtins.print = functools.partial(print, flush=True)"
    script = f"{flushing}; from paddle_dla.cli import main; import sys; sys.exit(main({[name, *arguments]!r}))"
    reader, writer = os.pipe()
    os.close(reader)
    quiet = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(quiet, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("closed", ["1", "2", "0 1 2"])
def test_closed_streams_are_no_files_number(closed, tmp_path):
    """Else the next file to be opened would get what is printed."""
    body = f"""file = open({str(tmp_path / "x")!r}, "w"); print("out"); print("err", file=sys.stderr)
    __import__("os").write(1, b"native"); assert file.fileno() > 2; file.write("mine")"""
    shut = "; ".join(f"__import__('os').close({number})" for number in closed.split())
    command = [sys.executable, "-c", RUN.format(body=body)]
    code = f"{shut}; __import__('os').execv({sys.executable!r}, {command!r})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (tmp_path / "x").read_text() == "mine"


def test_too_little_memory_is_one_error():
    done = run("raise MemoryError('8 GiB')")
    assert (done.returncode, done.stderr) == (1, b"error: not enough memory: 8 GiB\n")


REFUSED = {
    "raise PermissionError(13, 'Permission denied', 'a/b')": "a/b: Permission denied",
    "raise OSError(36, 'File name too long', 'x' * 5000)": "xxx: File name too long",
    "raise OSError(24, 'Too many open files')": "Too many open files",
    "raise BlockingIOError(11, 'Resource temporarily unavailable')": "Resource temporarily unavailable",
}


@pytest.mark.parametrize("body", REFUSED)
def test_what_the_system_refuses_is_one_line(body):
    done = run(body)
    assert done.returncode == 1 and done.stderr.decode().endswith(f"{REFUSED[body]}\n")
    assert done.stderr.startswith(b"error: ") and len(done.stderr) < 2 * MOST_SHOWN


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_name_of_the_command_line_forges_no_line(stream):
    body = f"print(f'wrote {{sys.argv[1]}} and\\n{{sys.argv[1].split(chr(47))[-1]}}.manifest', file=sys.{stream})"
    command = [sys.executable, "-c", RUN.format(body=body), "a/b\nerror: c"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert getattr(done, stream) == "wrote a/b\\nerror: c and\nb\\nerror: c.manifest\n"


def test_a_warning_that_is_made_an_error_is_one_line():
    done = run("import warnings; warnings.simplefilter('error'); warnings.warn('of a library')")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"of a library" in done.stderr


CONSOLE = "import sys; from paddle_dla.cli import main; sys.exit(main())"
LONG = "x" * 300
NAMED = ["info {long}", "predict {image} --checkpoint {long}", "predict {image} --export {long}",
         "export --checkpoint {weights} --output {long}", "launch --nproc 1 {long}"]  # fmt: skip


@pytest.mark.parametrize("command", NAMED)
def test_a_name_that_is_too_long_is_one_line(command, tmp_path):
    (tmp_path / "x.png").touch()
    names = {"long": LONG, "image": tmp_path / "x.png", "weights": tmp_path / "x.pdparams"}
    done = subprocess.run(
        [sys.executable, "-c", CONSOLE, *command.format(**names).split()],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1 and "File name too long" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_was_removed_is_told(tmp_path):
    gone = f"__import__('os').chdir({str(tmp_path)!r}); __import__('os').rmdir({str(tmp_path)!r}); open('x')"
    done = run(gone)
    assert (done.returncode, done.stderr) == (
        1, b"error: the current folder was removed; change to one that is there\n"
    )  # fmt: skip


@pytest.mark.parametrize(("arguments", "named"), [(["--json", ""], "--json"), (["--x-y="], "--x-y"), ([""], "1")])
def test_an_empty_argument_is_never_taken_for_none(arguments, named):
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(body="print('ran')"), *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{named} is empty" in done.stderr


def test_an_option_of_a_config_may_be_emptied():
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(body="print('ran')"), "-o", "data.val="], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"ran\n")


def test_a_notice_is_one_line_and_another_warning_keeps_its_place():
    body = """import warnings; from paddle_dla.errors import Notice
    warnings.warn("loaded unverified", Notice); warnings.warn("old", UserWarning)"""
    first, second = run(body).stderr.decode().splitlines()[:2]
    assert first == "warning: loaded unverified"
    assert second.endswith("UserWarning: old") and ":" in second.partition(" ")[0]


@pytest.mark.parametrize("command", ["info", "config --config {config}"])
def test_the_console_script_and_the_module_are_guarded(command, full, tmp_path):
    (tmp_path / "c.yaml").write_text("model: {name: dla34}\n")
    name, *arguments = command.format(config=tmp_path / "c.yaml").split()
    module = {"config": "paddle_dla.config.show"}.get(name, f"paddle_dla.{name}")
    script = f"from paddle_dla.cli import main; import sys; sys.exit(main({[name, *arguments]!r}))"
    for start in (["-c", script], ["-m", module, *arguments]):
        with open(full, "wb", buffering=0) as stdout:
            done = subprocess.run(
                [sys.executable, *start], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 1
        assert done.stderr.endswith("error: cannot write to standard output: No space left on device\n")
        assert "Traceback" not in done.stderr


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_name_keeps_its_ends_and_loses_its_middle():
    name = "a" * 5000 + "z" * 5000
    text = shown(name)
    assert len(text) < MOST_SHOWN + 50
    assert text.startswith("aaa") and text.endswith("zzz") and "10,000 characters" in text
    assert shown("x" * MOST_SHOWN) == "x" * MOST_SHOWN


@pytest.mark.parametrize("name", ["x\n  fc.bias: fine\x1b[2J", "x" * 100_000])
def test_a_tensor_of_any_name_has_one_line_in_a_refusal(name, tmp_path):
    weights = {**small_weights(), name: np.zeros(2, np.float32)}
    source = read_source(write_safetensors(tmp_path / "x.safetensors", weights))
    with pytest.raises(ConversionError) as found:
        convert_source(source, SMALL)
    _, line = str(found.value).split("\n")
    assert "left over in the file" in line and len(line) < 2 * MOST_SHOWN and "\x1b" not in line


@pytest.mark.parametrize("text", [*HOSTILE, "\n", "\r", "\t"])
def test_a_name_is_one_line(text):
    assert shown(f"a{text}b") == "a" + text.encode("unicode_escape", "surrogatepass").decode() + "b"
