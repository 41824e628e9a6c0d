"""Images in any number: one compiled shape a device is one image bit for bit, and a kill repeats none and loses none."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from guided_jax.app.sample import command as sample
from guided_jax.parallel import replicated
from guided_jax.storage import images
from tests import economy, processes
from tests.scripts import ROOT, alone, run_script


# The first differs without `replicated._without_constants` or the reciprocal in `numerics.ratio`, the second without the
# attention's.
@pytest.mark.slow  # in the fast suite up to a grey value, and the clouds of tests/particles to the bit
@pytest.mark.parametrize(
    "method",
    [
        ["--guidance", "projected+ramp"],
        ["--guidance", "classifier", "--sampler", "ddpm"],
        ["--guidance", "classifier-free", "--eta", 0.5],
        ["--guidance", "universal"],
    ],
    ids=lambda method: method[1],
)
def test_the_number_of_devices_changes_no_bit_of_an_image(tiny, tmp_path, capsys, monkeypatch, method):
    """Two images a device on one device and on four: the same before they are rounded to pixels, and in the files.

    Compiled as for users, not as the other tests.
    """
    monkeypatch.setattr(replicated, "compiler_options", economy.OPTIONS)
    rounded, exact, files = images.to_uint8, {1: [], 4: []}, {}
    for count, found in exact.items():
        monkeypatch.setattr(images, "to_uint8", lambda x, found=found: found.append(x) or rounded(x))
        spread = ["--num-samples", 8, "--batch-size", 2 * count, "--devices", count, "--out", tmp_path / str(count)]
        asked = [tiny, *method, "--scale", 2, "--steps", "ddim5", "--no-clip", *spread]
        code, _, err = run_script(sample.main, asked, capsys)
        assert code == 0, err
        files[count] = images.load_npz(tmp_path / str(count) / "samples.npz")
    assert [len(found) for found in exact.values()] == [4, 1]
    np.testing.assert_array_equal(np.concatenate(exact[1]), exact[4][0])
    for one, four in zip(files[1], files[4], strict=True):
        np.testing.assert_array_equal(one, four)


def start(run, out, devices):
    """sample.py in a process of its own."""
    words = ["sample.py", run, "--guidance", "classifier-free", "--labels", 3, 7, "--steps", 5]
    words += ["--num-samples", 2000, "--batch-size", 4 * devices, "--out", out]
    return processes.start(*words, env=alone(JAX_NUM_CPU_DEVICES=str(devices)))


def progress(out):
    """How many images are on the disk; 0 before the first."""
    note = out / ".samples.partial" / "progress.json"
    return json.loads(note.read_text())["done"] if note.exists() else 0


@pytest.mark.slow
def test_killed_in_the_middle_three_times_nothing_is_repeated_or_lost(tiny, tmp_path):
    """Each time the images so far are marked: the next process leaves the marks, so it drew none of them again."""
    whole = start(tiny, tmp_path / "whole", devices=1)
    assert whole.wait(timeout=300) == 0, whole.stderr.read()
    out, marked = tmp_path / "killed", []
    for kill in range(3):
        process, before = start(tiny, out, devices=2), progress(out)
        while progress(out) < before + 200:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        pictures = np.lib.format.open_memmap(out / ".samples.partial" / "arr_0.npy", "r+")
        done = progress(out)
        assert before + 200 <= done < len(pictures), kill
        marked.append((done - 1, pictures[done - 1].copy()))
        pictures[done - 1] = 255 - pictures[done - 1]
        del pictures
    last = start(tiny, out, devices=2)
    assert last.wait(timeout=300) == 0, last.stderr.read()
    pictures, labels = images.load_npz(out / "samples.npz")
    for row, original in marked:
        np.testing.assert_array_equal(pictures[row], 255 - original)
        pictures[row] = original
    wanted, told = images.load_npz(tmp_path / "whole" / "samples.npz")
    np.testing.assert_array_equal(pictures, wanted)
    np.testing.assert_array_equal(labels, told)
    assert not (out / ".samples.partial").exists()


# As users compile: the tests themselves leave most of XLA's optimizations out.
BATCHES = """
import jax, numpy as np
from benchmarks.speed import sizes
from guided_jax import denoiser, reverse, sampler, schedule

size = sizes.SIZES["digits"]
unet, params = sizes.networks(size)[0], sizes.parameters(size)["unet"]
levels = schedule.respace(schedule.cosine(1000), 2)

def draw(params, key):
    model = denoiser.from_network(lambda x, t: unet.apply(params, x, t, 0))
    return sampler.sample(key, model, reverse.ddim(), jax.random.normal(key, (8, 8, 1)), levels)

many = jax.jit(jax.vmap(draw, (None, 0)))
few, more = (many(params, sampler.keys(jax.random.key(0), np.arange(n))) for n in (4, 32))
print(np.abs(more[:4] - few).max() / np.abs(few).max())
"""


@pytest.mark.slow  # smaller batches in the fast suite: tests/app/test_scripts.py
def test_the_size_of_a_batch_changes_an_image_by_rounding_only():
    """XLA's CPU backend has computed a product of small matrices in a scan wrongly from 32 images on."""
    done = subprocess.run(
        [sys.executable, "-c", BATCHES], capture_output=True, text=True, check=True, cwd=ROOT, env=alone()
    )
    assert float(done.stdout) < 1e-4
