"""Eight CPU devices, shapes checked at every call, no silent rank promotion, nothing compiled twice: in the tests only."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads wait by spinning, on the cores of the other worker
gc.disable()  # until the tests are collected: millions of objects are made, and none of them is garbage


def known_to_xla(flags: str) -> bool:
    """Return whether XLA takes the flags: in a process of its own, since XLA ends the process for one it does not know."""
    command = [sys.executable, "-c", "from jaxlib import xla_client; xla_client.CompileOptions()"]
    return subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True).returncode == 0


# On CPU, where eight devices are, also on a machine with a GPU; test_gpu.py runs with JAX_PLATFORMS=cuda,cpu.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu" and "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    # Most of the time is compilation; the mathematics is the same. Set before JAX looks, and inherited by pytest's
    # workers and the processes that tests start, but for those that compile as users do (`scripts.alone`).
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    FLAGS = [
        "--xla_cpu_use_fusion_emitters=false",  # compile in half the time; gone since jaxlib 0.12
        "--xla_cpu_parallel_codegen_split_count=1",  # parts for the cores of a large machine are a quarter of the time
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",  # eight devices wait for one another on a busy machine
    ]
    known = FLAGS if known_to_xla(" ".join(FLAGS)) else filter(known_to_xla, FLAGS)
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *known]).strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Empty at the start and gone at the end; pytest's workers and the scripts that tests start inherit it.
    CACHE = tempfile.TemporaryDirectory(prefix="guided_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from tests import processes  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same few examples in every run; no test depends on how fast the machine is.
settings.register_profile(
    "quick", max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("quick")

from jaxtyping import install_import_hook  # noqa: E402

# Every public signature of the library, which the application is not, is checked by beartype while the tests run.
PACKAGE = pathlib.Path(__file__).parents[1] / "guided_jax"
ROOMS = sorted(
    {path.stem for path in PACKAGE.iterdir()} - {"app", "configs", "__init__", "__main__", "__pycache__", "py"}
)
install_import_hook([f"guided_jax.{room}" for room in ROOMS], "beartype.beartype")

from guided_jax import parallel  # noqa: E402
from guided_jax.app import cli  # noqa: E402
from guided_jax.parallel import devices, dispatch, replicated, sharded  # noqa: E402
from guided_jax.storage import log  # noqa: E402
from tests import economy  # noqa: E402

if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1":
    # The commands ask for a level of optimization of their own, which would take twice the time to compile. These options
    # change nothing; with them a test fails where a function with compiler options calls another, which JAX refuses.
    unoptimized = {"xla_backend_optimization_level": 0}
    for each in (parallel, devices, replicated, sharded):
        each.compiler_options = lambda of: unoptimized
dispatch.give_back_memory = lambda: None  # for each of thousands of programs, in a process that has held them all
log.plot = economy.blank_curves  # `curves` is the fixture of the tests that look at them
economy.share_contexts()
economy.remember_layers()
economy.remember_initial_shapes()
economy.remember_sources()
economy.remember_options()


def pytest_collection_finish():
    """Collect garbage from here on, less often, and without looking through all that was imported each time."""
    cli.collect_less()


def pytest_sessionfinish():
    """Let a worker of pytest end in its own time.

    The runner sends a worker that needs more than 5 seconds after its last test a SIGINT, for which a green run would
    print a KeyboardInterrupt of whatever runs then, mostly of hypothesis's callback of the garbage collector.
    """
    if os.environ.get("PYTEST_XDIST_WORKER"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """Kill the processes that a failed test leaves behind."""
    yield
    while processes.STARTED:
        processes.STARTED.pop().kill()


@pytest.fixture
def curves(monkeypatch):
    """Draw the curves of the metrics, as users have them."""
    monkeypatch.setattr(log, "plot", economy.PLOT)


def converted(name, tmp_path_factory):
    """Convert a tiny checkpoint of the golden folder; return its run."""
    from guided_jax.app import cli
    from guided_jax.app.convert import command as convert
    from tests import latent_golden as golden

    out = tmp_path_factory.mktemp(name) / "run"
    cli.script(convert.main, [str(golden.FOLDER / "checkpoints" / name), "--out", str(out)])
    return out


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The tiny DiT of the golden folder as a run of latents; the tests only read it."""
    return converted("dit", tmp_path_factory)


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory):
    """The tiny Stable Diffusion 1 of the golden folder as a run; the tests only read it."""
    return converted("sd1", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A run of a few steps, one for all processes of the test runner; the tests only read it."""
    from guided_jax.app import cli
    from guided_jax.app.train import command as train
    from tests.scripts import SMALL

    base = tmp_path_factory.getbasetemp()
    place = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "tiny"
    try:
        place.mkdir()
    except FileExistsError:  # another process is making it
        while not (place / "ready").exists():
            assert not (place / "failed").exists()
            time.sleep(0.5)
        return place / "run"
    try:
        arguments = ["digits", "--out", place / "run", "--data.dir", place / "data", *SMALL]
        cli.script(train.main, [str(argument) for argument in arguments])
        (place / "ready").touch()
    finally:
        if not (place / "ready").exists():
            (place / "failed").touch()
    return place / "run"
