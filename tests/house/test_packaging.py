"""The wheel: what is in it, and that it works in a fresh environment and an empty folder that is not the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from guided_jax.storage import images
from tests.scripts import NETWORKS, ROOT

# Written into the new environment: at its end every process notes the files that it imported.
RECORDER = """
import atexit, os, sys

def note():
    with open(os.environ["IMPORTED"], "a") as file:
        for module in list(sys.modules.values()):
            print(getattr(module, "__file__", None) or "", file=file)

if "IMPORTED" in os.environ:
    atexit.register(note)
"""
# Two steps of one small network, nothing measured: the rest is tested elsewhere.
SHORT = [
    *("--classifier.num-steps", "0", "--diffusion.num-steps", "2", "--diffusion.batch-size", "8"),
    *("--diffusion.eval-every", "0", "--diffusion.sample-every", "0", "--schedule.num-steps", "20"),
    *NETWORKS,
]
EXPERIMENT = '''"""My own experiment: small networks, no classifier."""

from guided_jax.app.settings import Classifier, Diffusion, Experiment, Schedule, UNet

NETWORK = UNet(model_channels=16, channel_mult=(1,), num_groups=8, num_head_channels=16)
EXPERIMENT = Experiment(
    schedule=Schedule(num_steps=20),
    diffusion=Diffusion(network=NETWORK, num_steps=2, batch_size=8, eval_every=0, sample_every=0),
    classifier=Classifier(num_steps=0),
)
'''


def build(kind, source, out):
    """Build a wheel or an sdist with hatchling; return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    assert "warn" not in (done.stdout + done.stderr).lower()
    return next(out.iterdir())


def contents(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the checkout, as pip builds it; pip prints nothing that would worry a newcomer."""
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out)]
    done = subprocess.run([*pip, str(ROOT)], capture_output=True, text=True, check=True)
    assert not any(word in (done.stdout + done.stderr).lower() for word in ("warning", "deprecat"))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel, and the dependencies of this one. Its name must not matter to error messages."""
    place = tmp_path_factory.mktemp("venv") / "guided_jax"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True)
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    (packages / "recorder.pth").write_text("import recorder\n")
    (packages / "recorder.py").write_text(RECORDER)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The empty folder that the commands run in, one after the other."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture
def run(installed, folder, tmp_path):
    """Run `guided-jax WORDS` in that folder; check the exit code, and that nothing came from the checkout."""

    def call(*words, code=0):
        own = {
            "TFDS_DATA_DIR": str(folder / "data"),
            "JAX_NUM_CPU_DEVICES": "1",
            "IMPORTED": str(tmp_path / "imported"),
        }
        settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
        command = [installed / "bin" / "guided-jax", *map(str, words)]
        done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        files = set(map(Path, (tmp_path / "imported").read_text().split("\n")))
        assert any(file.is_relative_to(installed) for file in files)
        ours = [ROOT / name for name in ("guided_jax", "configs", "tests", "benchmarks", "train.py", "sample.py")]
        assert not [file for file in files if any(file.is_relative_to(mine) for mine in ours)]
        return done

    return call


def test_the_wheel_holds_one_import_name_and_one_command(wheel):
    names = contents(wheel)
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"guided_jax", next(top for top in tops if top.endswith(".dist-info"))}
    commands = next(text for name, text in names.items() if name.endswith("entry_points.txt")).decode()
    assert commands.split() == ["[console_scripts]", "guided-jax", "=", "guided_jax.app.cli:main"]


def test_the_wheel_holds_every_file_of_the_package_and_every_experiment(wheel):
    files = [path.relative_to(ROOT) for path in (ROOT / "guided_jax").rglob("*") if path.is_file()]
    files += [Path("guided_jax") / path.relative_to(ROOT) for path in (ROOT / "configs").glob("*.py")]
    wanted = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    found = {name for name in contents(wheel) if ".dist-info" not in name}
    assert found == wanted
    assert {"guided_jax/py.typed", "guided_jax/configs/digits.py", "guided_jax/app/sweep/sweep.html"} <= found


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_checkout(wheel, tmp_path):
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    assert contents(build("wheel", next((tmp_path / "unpacked").iterdir()), tmp_path / "again")) == contents(wheel)


def test_every_optional_import_has_an_extra_and_every_extra_a_use():
    """`extras.require` and `extras.install_line` name extras that exist."""
    import re
    import tomllib

    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    text = "\n".join(path.read_text() for path in (ROOT / "guided_jax").rglob("*.py"))
    named = set(re.findall(r"""install_line\(["'](\w+)["']\)|require\("\w+", "(\w+)\"""", text))
    assert {name for pair in named for name in pair if name} <= extras
    assert not re.findall(r"pip install (?!'guided-jax\[)", text.replace("pip install 'guided-jax[{extra}]'", ""))


def test_the_installed_command_shows_its_page_and_version(run):
    import guided_jax

    assert "guided-jax COMMAND --help" in run("--help").stdout
    assert run("--version").stdout.split() == [guided_jax.__version__]


@pytest.mark.slow  # the wheel holds every file; the next test starts a run with it, tests/app trains and samples
def test_the_installed_command_trains_a_built_in_experiment_and_samples_it(run, folder):
    train = run("train", "digits", *SHORT)
    assert (folder / "runs" / "digits" / "config.json").is_file()
    assert "Warning" not in train.stderr
    draw = run("sample", "runs/digits", "--guidance", "none", "--num-samples", 4, "--steps", 3, "--out", "out")
    assert "Warning" not in draw.stderr
    assert len(images.load_npz(folder / "out" / "samples.npz")[0]) == 4


def test_the_installed_command_trains_an_experiment_of_the_user(run, folder):
    (folder / "my_experiment.py").write_text(EXPERIMENT)
    run("train", "./my_experiment.py", "--diffusion.num-steps", 0)  # training itself is the test above
    made = json.loads((folder / "runs" / "my_experiment" / "config.json").read_text())["experiment"]
    assert (made["schedule"]["num_steps"], made["diffusion"]["network"]["model_channels"]) == (20, 16)


def test_wrong_use_of_the_installed_command_is_one_sentence(run):
    """Also where the environment itself is in a folder called guided_jax."""
    for words in (["sample", "nowhere"], ["dream"]):
        err = run(*words, code=2).stderr
        assert err.startswith("error: ")
        assert len(err.strip().splitlines()) == 1


def test_an_error_in_a_users_experiment_keeps_its_traceback(run, folder):
    (folder / "broken.py").write_text("import json\njson.loads('{')\n")
    assert "Traceback" in run("train", "./broken.py", code=1).stderr


@pytest.mark.slow
def test_the_installed_demo_runs_in_full(run, folder):
    out = run("demo").stdout
    assert "| real digits |" in out
    assert (folder / "runs" / "digits" / "demo" / "digits.png").is_file()
