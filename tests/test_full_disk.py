"""Where a file cannot be written to its end, whichever it is, one sentence names it, and nothing of it is left."""

import resource
import subprocess
import sys

import numpy as np
import pytest
from small_models import save_small
from small_runs import ROOT, environment, make_images

from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.folders import atomic_folder
from paddle_dla.storage.npy import write_npy

pytestmark = pytest.mark.any_paddle


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    save_small(folder / "m.pdparams")
    images = make_images(folder / "images")
    (folder / "list.txt").write_text("".join(f"{images}/val/class{label}/0.png {label}\n" for label in range(4)))
    return folder


DATA = "--checkpoint m.pdparams --data list.txt --workers 0 --input-size 32"
PORT = 'convert/port.py --torch torch.nn:Linear --torch-args {{"in_features":600,"out_features":600}} --input-shape 600'
# command line, a limit on the size of files that stops it in the middle, and what the message names
COMMANDS = {
    "features": (f"-m paddle_dla.features {DATA} --output {{out}}.npy", 3000, "{out}.npy"),
    "predictions": (f"-m paddle_dla.evaluate {DATA} --predictions {{out}}.csv", 100, "{out}.csv"),
    "results": (f"-m paddle_dla.evaluate {DATA} --json {{out}}.json", 100, "{out}.json"),
    "a picture": ("-m paddle_dla.look_at_data --data list.txt --model dla60 --output {out}.png", 3000, "{out}.png"),
    "an export": ("-m paddle_dla.export --checkpoint m.pdparams --input-size 32 --output {out}", 3000, "model.json"),
    "weights for timm": (
        f"{ROOT}/convert/paddle2timm.py --checkpoint m.pdparams --output {{out}}.safetensors", 3000, "{out}.safetensors"
    ),
    "shards": (f"{ROOT}/scripts/make_shards.py images/val {{out}}", 3000, "{out}"),
    "a port's source": (f"{ROOT}/{PORT} --output {{out}}", 300, "model.py"),
    "a port's weights": (f"{ROOT}/{PORT} --output {{out}}", 100_000, "{out}/weights.pdparams"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", COMMANDS)
def test_a_file_that_does_not_fit_is_named_and_nothing_is_left(case, made, tmp_path):
    words, limit, named = COMMANDS[case]
    if "port" in case:
        pytest.importorskip("torch")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, *(word.format(out=out) for word in words.split())],
        cwd=made, env={**environment(), "TMPDIR": str(tmp_path)}, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    message = done.stderr.strip().splitlines()[-1]
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    assert message.startswith("error: ") and named.format(out=out) in message and ".part" not in message, message
    assert "is too low" in message or "is the disk full" in message
    assert not [path.name for path in tmp_path.iterdir() if path.name.strip(".").startswith("out")]


def test_a_file_in_a_folder_is_named_by_the_folder_that_it_was_meant_for(tmp_path):
    with pytest.raises(CheckpointError) as refusal, atomic_folder(tmp_path / "export", replace=False) as part:
        raise CheckpointError(f"cannot write {part}/weights: No space left on device")
    assert str(refusal.value) == f"cannot write {tmp_path}/export/weights: No space left on device"


@pytest.mark.parametrize(
    "array",
    [np.float64(3), np.zeros((0, 3)), np.arange(6).reshape(2, 3), np.arange(6.0, dtype=">f4").reshape(2, 3).T],
    ids=lambda array: str(np.shape(array)),
)
def test_an_array_is_written_as_numpy_writes_it(tmp_path, array):
    write_npy(tmp_path / "ours.npy", array)
    back = np.load(tmp_path / "ours.npy", allow_pickle=False)
    assert back.dtype == np.asarray(array).dtype and back.shape == np.shape(array)
    np.testing.assert_array_equal(back, array)
