"""The hub, as a real server on this machine speaks its protocol: download, cache, and no network at all."""

import hashlib
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import pytest
from numpy_weights import timm_weights
from timm_files import convert, same_bits, write_safetensors

from convert.hub import download, hub_id, is_hub_id
from paddle_dla import weight_files
from paddle_dla.models.variants import VARIANTS

pytestmark = [pytest.mark.network, pytest.mark.any_paddle]
needs_client = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="needs huggingface_hub")

MODEL = "dla46_c"
REPOSITORY = f"timm/{MODEL}.in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve(path):
    """A handler that answers for one file of one repository, and counts what is asked."""
    content = path.read_bytes()
    etag = hashlib.sha256(content).hexdigest()

    class Hub(BaseHTTPRequestHandler):
        requests: ClassVar[list[tuple[str, str]]] = []

        def do_HEAD(self):
            self.answer(b"")

        def do_GET(self):
            self.answer(content)

        def answer(self, body):
            self.requests.append((self.command, self.path))
            if self.path.partition("?")[0] not in (
                f"/{REPOSITORY}/resolve/{revision}/model.safetensors" for revision in ("main", COMMIT)
            ):
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Linked-ETag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *arguments):
            """Nothing on the terminal."""

    return Hub


@contextmanager
def running(handler):
    """A server on a free port of this machine; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The file that the hub serves."""
    return write_safetensors(tmp_path_factory.mktemp("hub") / "model.safetensors", timm_weights(MODEL))


@pytest.fixture
def hub(published):
    """The handler of a server with that file."""
    return serve(published)


# the client waits 23 seconds between its attempts to reach a server that is not there
IMPATIENT = "import time; time.sleep = lambda seconds: None\n"


def client(endpoint, cache, code, *arguments, **environment):
    """Python code in a process that knows no other hub than ``endpoint`` and no other cache than ``cache``."""
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HOME": str(cache / "home")}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", IMPATIENT + code, *map(str, arguments)],
        env=clean | settings,
        capture_output=True,
        text=True,
    )


CONVERT = "import sys; from convert.timm2paddle import main; sys.exit(main(sys.argv[1:]))"
CREATE = """
import sys
import numpy as np
from paddle_dla import create_model
model = create_model(sys.argv[1], pretrained=True)
np.savez(sys.argv[2], **{name: value.numpy() for name, value in model.state_dict().items()})
"""


def fetch(endpoint, cache, output, **environment):
    """``timm2paddle.py --hub`` against ``endpoint``."""
    arguments = ("--model", MODEL, "--hub", REPOSITORY, "--no-verify", "--output", output)
    return client(endpoint, cache, CONVERT, *arguments, **environment)


@needs_client
def test_a_hub_id_is_fetched_once_and_converted_from_the_cache_after_that(hub, published, tmp_path):
    cache, output = tmp_path / "cache", tmp_path / "x.pdparams"
    assert convert(published, tmp_path / "expected.pdparams", model=MODEL) == 0
    expected, _ = weight_files.read(tmp_path / "expected.pdparams")
    with running(hub) as endpoint:
        done = fetch(endpoint, cache, output)
        assert done.returncode == 0, done.stderr
        assert same_bits(weight_files.read(output)[0], expected)
        assert [command for command, _ in hub.requests].count("GET") == 1
        assert fetch(endpoint, cache, output).returncode == 0
        assert [command for command, _ in hub.requests].count("GET") == 1
    output.unlink()
    done = fetch(endpoint, cache, output)
    assert done.returncode == 0, done.stderr
    assert same_bits(weight_files.read(output)[0], expected)
    assert fetch(endpoint, cache, output, HF_HUB_OFFLINE="1").returncode == 0


@needs_client
def test_pretrained_models_come_from_the_hub_and_then_from_the_cache(hub, published, tmp_path):
    cache, output = tmp_path / "cache", tmp_path / "state.npz"
    with running(hub) as endpoint:
        done = client(endpoint, cache, CREATE, MODEL, output)
        assert done.returncode == 0, done.stderr
    assert convert(published, tmp_path / "expected.pdparams", model=MODEL) == 0
    expected, _ = weight_files.read(tmp_path / "expected.pdparams")
    with np.load(output) as state:
        assert same_bits(dict(state), expected)
    output.unlink()
    done = client(endpoint, cache, CREATE, MODEL, output)
    assert done.returncode == 0, done.stderr
    with np.load(output) as state:
        assert same_bits(dict(state), expected)


@needs_client
def test_the_default_hub_id_is_the_models_own(hub, tmp_path):
    with running(hub) as endpoint:
        arguments = ("--model", MODEL, "--hub", "--no-verify", "--output", tmp_path / "x.pdparams")
        done = client(endpoint, tmp_path / "cache", CONVERT, *arguments)
    assert done.returncode == 0, done.stderr
    assert f"fetching {REPOSITORY} from the hub" in done.stderr


def says_how_to_go_on(done, repository):
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"cannot fetch model.safetensors of {repository} from the hub" in done.stderr
    assert f"https://huggingface.co/{repository}/resolve/main/model.safetensors" in done.stderr
    assert "--checkpoint model.safetensors" in done.stderr


@needs_client
@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_network_and_cache_the_error_says_how_to_go_on(offline, tmp_path):
    with running(BaseHTTPRequestHandler) as nobody:
        pass
    done = fetch(nobody, tmp_path / "cache", tmp_path / "x.pdparams", HF_HUB_OFFLINE=offline)
    says_how_to_go_on(done, REPOSITORY)
    assert not (tmp_path / "x.pdparams").exists()


@needs_client
def test_pretrained_without_network_and_cache_says_how_to_go_on(tmp_path):
    with running(BaseHTTPRequestHandler) as nobody:
        pass
    done = client(nobody, tmp_path / "cache", CREATE, MODEL, tmp_path / "state.npz")
    assert done.returncode == 1
    assert "CheckpointError: cannot fetch model.safetensors" in done.stderr
    assert "create_model(name, pretrained='model.safetensors')" in done.stderr


@needs_client
def test_a_repository_that_does_not_exist_is_an_error(hub, tmp_path):
    with running(hub) as endpoint:
        arguments = ("--model", MODEL, "--hub", "timm/none", "--output", tmp_path / "x.pdparams")
        done = client(endpoint, tmp_path / "cache", CONVERT, *arguments)
    says_how_to_go_on(done, "timm/none")


@needs_client
def test_a_download_that_breaks_off_is_an_error_and_not_cached(published, tmp_path):
    class Breaking(serve(published)):
        def answer(self, body):
            super().answer(body[: len(body) // 2])
            self.close_connection = True

    cache, output = tmp_path / "cache", tmp_path / "x.pdparams"
    with running(Breaking) as endpoint:
        says_how_to_go_on(fetch(endpoint, cache, output), REPOSITORY)
    assert not output.exists()
    with running(serve(published)) as endpoint:
        done = fetch(endpoint, cache, output)
    assert done.returncode == 0, done.stderr


@needs_client
def test_weights_of_another_model_in_the_repository_are_refused(tmp_path):
    other = write_safetensors(tmp_path / "model.safetensors", timm_weights("dla46x_c"))
    with running(serve(other)) as endpoint:
        done = fetch(endpoint, tmp_path / "cache", tmp_path / "x.pdparams")
    assert done.returncode == 1
    assert f"does not account for {MODEL} (nothing was written); it fits dla46x_c: pass --model dla46x_c" in done.stderr


def test_without_the_hub_client_the_error_says_how_to_get_it(tmp_path):
    code = f"import sys; sys.modules['huggingface_hub'] = None; {CONVERT}"
    arguments = ("--model", MODEL, "--hub", "--output", tmp_path / "x.pdparams")
    done = client("http://127.0.0.1:1", tmp_path, code, *arguments)
    assert done.returncode == 1
    expected = f'fetching {REPOSITORY} needs huggingface_hub: pip install "paddle-dla[hub]", or name'
    assert expected in done.stderr


@pytest.mark.parametrize("model", VARIANTS)
def test_every_model_has_a_hub_id(model):
    assert hub_id(model) == f"timm/{model}.in1k"
    assert is_hub_id(hub_id(model))
    assert is_hub_id(f"hf-hub:{hub_id(model)}")


@pytest.mark.parametrize(
    "source", ["dla60", "./dla60", "../weights/dla60", "weights/dla60.pth", "a/b/c", "/dla60", "weights/x.pdparams", ""]
)
def test_a_path_is_no_hub_id(source):
    assert not is_hub_id(source)


def test_a_file_that_exists_is_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "dla60.in1k").touch()
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("timm/dla60.in1k")


@needs_client
def test_a_name_that_the_hub_cannot_have_is_refused_before_anything_is_sent():
    with pytest.raises(weight_files.CheckpointError, match=r"cannot fetch .* HFValidationError"):
        download("timm/no spaces, please")
