"""The command line around every command: the compilation cache, and whose error it is."""

import contextlib
import importlib
import io
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from guided_jax import extras
from guided_jax.app import ambient, cli, compilation_cache, errors
from tests.scripts import ROOT, SMALL, alone

JAX_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
LIMITS = ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES")


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A user without settings, whose cache folder is tmp_path; afterwards everything is as before."""
    for name in (*JAX_VARIABLES, *LIMITS, compilation_cache.VARIABLE):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return monkeypatch


def cache():
    return [os.environ.get(name) for name in JAX_VARIABLES]


def test_the_cache_is_in_the_users_cache_folder_for_the_user_alone(environment, tmp_path, capsys):
    compilation_cache.enable()
    folder = tmp_path / "guided_jax" / "compiled"
    assert cache() == [str(folder), None]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [os.environ[name] for name in LIMITS] == ["0", "-1"]
    assert capsys.readouterr().err == ""


def test_without_a_cache_variable_the_folder_is_in_the_home_folder(environment, tmp_path):
    environment.delenv("XDG_CACHE_HOME")
    environment.setenv("HOME", str(tmp_path / "home"))
    assert compilation_cache.default_folder() == tmp_path / "home" / ".cache" / "guided_jax" / "compiled"
    environment.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, as its specification says
    assert compilation_cache.default_folder() == tmp_path / "home" / ".cache" / "guided_jax" / "compiled"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_the_cache_is_switched_off_and_moved(environment, tmp_path, by):
    for value, found in {"off": [None, "false"], str(tmp_path / "mine"): [str(tmp_path / "mine"), "false"]}.items():
        if by == "variable":
            environment.setenv(compilation_cache.VARIABLE, value)
        compilation_cache.enable(value if by == "option" else None)
        assert cache() == found
    assert not (tmp_path / "guided_jax").exists()


def test_the_option_goes_before_the_variable_and_both_before_jax(environment, tmp_path):
    environment.setenv("JAX_COMPILATION_CACHE_DIR", "of the user")
    compilation_cache.enable()
    assert cache() == ["of the user", None]
    assert not any(name in os.environ for name in LIMITS)
    environment.setenv(compilation_cache.VARIABLE, str(tmp_path / "variable"))
    compilation_cache.enable()
    assert cache() == [str(tmp_path / "variable"), None]
    compilation_cache.enable(str(tmp_path / "option"))
    assert cache() == [str(tmp_path / "option"), None]


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_may_write_to_is_not_used(environment, tmp_path, capsys, mode):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    compilation_cache.enable(str(folder))
    assert cache() == [None, None]
    err = capsys.readouterr().err
    assert err.startswith(f"warning: compiling without the cache in {folder}: others may write to it")
    assert len(err.splitlines()) == 1


def test_a_folder_of_somebody_else_is_not_used(environment, tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    environment.setattr(os, "getuid", lambda: 12345)
    compilation_cache.enable(str(tmp_path / "theirs"))
    assert cache() == [None, None]
    assert "belongs to another user" in capsys.readouterr().err


def test_a_home_that_cannot_be_written_to_is_one_warning(environment, tmp_path, capsys):
    (tmp_path / "guided_jax").write_text("a file where the folder should be")
    compilation_cache.enable()
    assert cache() == [None, None]
    (tmp_path / "read-only").mkdir()
    environment.setattr(os, "access", lambda *_: False)
    compilation_cache.enable(str(tmp_path / "read-only"))
    assert cache() == [None, None]
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: compiling without the cache in ") for line in lines] == [True, True]
    assert "not writable" in lines[1]


def test_the_cache_keeps_what_was_used_last(tmp_path, monkeypatch):
    for i in range(4):
        (tmp_path / f"{i}-cache").write_bytes(bytes(10))
        os.utime(tmp_path / f"{i}-cache", (i, i))
    (tmp_path / "other").write_bytes(bytes(100))
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", 25)
    compilation_cache.prepare(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-cache", "3-cache", "other"]


def test_two_commands_may_trim_at_once(tmp_path, monkeypatch):
    """A file that the other one deleted meanwhile is no reason to compile without the cache."""
    (tmp_path / "1-cache").symlink_to(tmp_path / "gone")  # listed, and not there
    (tmp_path / "2-cache").write_bytes(bytes(10))
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", 5)
    compilation_cache.prepare(tmp_path)
    assert not (tmp_path / "2-cache").exists()


def test_every_command_takes_the_option():
    take = compilation_cache.take_option
    assert take(["run", "--compilation-cache", "off", "--scale", "3"]) == ("off", ["run", "--scale", "3"])
    assert take(["--compilation-cache=/a=b", "run"]) == ("/a=b", ["run"])
    assert take(["run"]) == (None, ["run"])
    for words in (["--compilation-cache"], ["--compilation-cache", "--scale"], ["--compilation-cache="]):
        with pytest.raises(ValueError, match="takes off or a folder"):
            take(words)


COMPILE = """
from guided_jax.app import compilation_cache
compilation_cache.enable()
import jax
from jax._src import monitoring
hits = []
monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
jax.jit(lambda x: jax.numpy.sin(x) + 1)(1.0)
print(len(hits))
"""


def command(words, **settings):
    """Run python WORDS as a user would, from another folder."""
    environment = alone(PYTHONPATH=str(ROOT), **settings)
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)


def test_the_second_process_loads_what_the_first_compiled(tmp_path):
    settings = {"GUIDED_JAX_CACHE": str(tmp_path / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    assert command(["-c", COMPILE], **settings).stdout.split() == ["0"]
    assert int(command(["-c", COMPILE], **settings).stdout) >= 1


DRAW = """
import sys, types
from guided_jax.app import cli

def draw(args):
    import jax, jax.numpy as jnp
    key = jax.random.key(3)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(2))
    print(jax.vmap(jax.random.normal)(keys).tolist(), jax.random.categorical(key, jnp.zeros(9)), jnp.arange(3.0).dtype)

sys.modules["guided_jax.app.drawing"] = types.SimpleNamespace(main=draw)
cli.COMMANDS["draw"] = ("drawing", "")
cli.main(["draw"])
"""


def test_what_the_environment_says_of_jax_changes_no_number():
    bare = dict.fromkeys(ambient.DEFAULTS, "")
    plain, other = command(["-c", DRAW], **bare), command(["-c", DRAW], **OTHER_JAX)
    assert plain.stdout == other.stdout != ""
    assert plain.stderr == ""
    ignored = ", ".join(f"{name}={OTHER_JAX[name]}" for name in ambient.DEFAULTS)
    assert other.stderr == f"note: ignoring {ignored}, so that a seed means the same numbers everywhere\n"


OTHER_JAX = {
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": "on",
    "JAX_ENABLE_X64": "True",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
}


@pytest.mark.parametrize("name", ambient.DEFAULTS)
def test_a_setting_that_jax_has_read_already_is_set_back(name, monkeypatch, capsys):
    import jax

    assert set(OTHER_JAX) == set(ambient.DEFAULTS)
    before = getattr(jax.config, name.lower())
    monkeypatch.setenv(name, OTHER_JAX[name])
    try:
        changed = OTHER_JAX[name] in ("on", "True") if isinstance(before, bool) else OTHER_JAX[name]
        jax.config.update(name.lower(), 7 if changed == "7" else changed)
        ambient.ignore()
        assert getattr(jax.config, name.lower()) == before
    finally:
        jax.config.update(name.lower(), before)
    assert name not in os.environ
    assert capsys.readouterr().err.count(name) == 1


def test_a_setting_at_its_default_is_not_worth_a_note(monkeypatch, capsys):
    for name, text in (("JAX_ENABLE_X64", "0"), ("JAX_THREEFRY_PARTITIONABLE", "Yes"), ("JAX_RANDOM_SEED_OFFSET", "0")):
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("JAX_DEFAULT_PRNG_IMPL", "threefry2x32")
    ambient.ignore()
    assert capsys.readouterr().err == ""


def failing(error):
    def run(args):
        raise error

    return run


def outcome(run):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        cli.script(run, [])
    return stop.value.code, err.getvalue()


def test_memory_that_is_not_enough_is_one_sentence():
    import jax

    for error in (
        MemoryError("Unable to allocate 72.8 TiB for an array"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4000 bytes.\nallocation summary: ..."),
    ):
        code, err = outcome(failing(error))
        assert code == 2
        assert re.fullmatch(r"error: out of memory \(.*[^.]\); make it smaller, .*--batch-size\n", err)


def test_an_error_of_the_package_is_a_sentence_and_of_others_a_traceback(monkeypatch, tmp_path):
    """By where the raising file is, whatever the folders above it are called."""
    code = compile("raise ValueError('wrong')", str(tmp_path / "guided_jax" / "site-packages" / "module.py"), "exec")

    def run(args):
        exec(code)

    with pytest.raises(ValueError, match="wrong"):
        cli.script(run, [])
    monkeypatch.setattr(errors, "PACKAGE", tmp_path / "guided_jax")
    assert outcome(run) == (2, "error: wrong\n")
    monkeypatch.setenv("GUIDED_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="wrong"):
        cli.script(run, [])


@pytest.mark.parametrize("is_package", [True, False])
def test_an_error_of_the_package_of_the_command_is_a_sentence(is_package, monkeypatch, tmp_path):
    """One of a package inside that of the command; where the command is in no package, only one of its own file."""
    place = tmp_path / f"command_{is_package}"
    (place / "inside").mkdir(parents=True)
    (place / "inside" / "__init__.py").touch()
    if is_package:
        (place / "__init__.py").touch()
    (place / "inside" / "parts.py").write_text("def fail(args):\n    raise ValueError('wrong')\n")
    (place / "run.py").write_text(f"from {place.name}.inside import parts\ndef main(args):\n    parts.fail(args)\n")
    monkeypatch.syspath_prepend(tmp_path)
    main = importlib.import_module(f"{place.name}.run").main
    if is_package:
        assert outcome(main) == (2, "error: wrong\n")
    else:
        with pytest.raises(ValueError, match="wrong"):
            cli.script(main, [])


def test_a_missing_extra_is_a_sentence_and_a_missing_dependency_a_traceback():
    def run(args):
        extras.require("no_such_package", "weights", "reading a.pt")

    assert outcome(run) == (
        2,
        "error: reading a.pt needs no_such_package, which is not installed: pip install 'guided-jax[weights]'\n",
    )
    with pytest.raises(ModuleNotFoundError):
        cli.script(failing(ModuleNotFoundError("No module named 'jax'", name="jax")), [])


def test_a_bug_keeps_its_traceback():
    for error in (RuntimeError("internal"), TypeError("x"), AssertionError(), KeyError("y")):
        with pytest.raises(type(error)):
            cli.script(failing(error), [])


@pytest.mark.parametrize(
    "platform", ["cuda", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tpu", "nonsense"))]
)
def test_an_accelerator_that_is_not_there_is_one_sentence(platform):
    code = "import jax\nfrom guided_jax.app import cli\ncli.script(lambda args: jax.numpy.ones(3) + 1, [])"
    done = command(["-c", code], JAX_PLATFORMS=platform)
    if done.returncode == 0:
        pytest.skip(f"there is a {platform} here")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert last.startswith(f"error: JAX cannot use JAX_PLATFORMS={platform} (")
    assert f"pip install 'guided-jax[{'tpu' if platform == 'tpu' else 'cuda'}]'" in last


def shell(line, **settings):
    """Run a line of shell in which guided-jax is the command."""
    environment = alone(PYTHONPATH=str(ROOT), **settings)
    script = f'guided_jax() {{ "{sys.executable}" -m guided_jax "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)


def test_closed_streams_change_nothing_but_what_is_seen():
    assert shell("guided_jax dream 2>&-").returncode == 2
    assert shell("guided_jax dream 2>/dev/full").returncode == 2
    assert shell("guided_jax --help >&- 2>&-").returncode == 0
    assert "COMMAND" in shell("guided_jax --help 2>&-").stdout


def test_a_reader_that_stops_reading_is_no_error():
    done = shell("guided_jax --help | true; echo ${PIPESTATUS[0]}")
    assert done.stderr == ""
    assert done.stdout.split()[-1] in ("0", "141")


@pytest.mark.parametrize(
    "settings",
    [
        {"PYTHONIOENCODING": "ascii"},
        *(pytest.param({"LC_ALL": "C", **more}, marks=pytest.mark.slow) for more in ({"PYTHONUTF8": "0"}, {})),
    ],
)
def test_text_that_a_stream_cannot_encode_is_escaped(settings):
    done = shell("guided_jax train ./größe.py", **settings)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "gr" in done.stderr


def test_text_that_the_output_cannot_encode_is_escaped():
    code = "from guided_jax.app import cli; cli.open_streams(); print('größe')"
    assert command(["-c", code], PYTHONIOENCODING="ascii").stdout == "gr\\xf6\\xdfe\n"


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_names_of_files_are_utf_8_whatever_the_locale():
    """Orbax and others, which are written in C++, take no other names."""
    done = shell("guided_jax train ./größe.py", **C_LOCALE)
    assert (done.returncode, done.stderr.startswith("error: there is no file größe.py; ")) == (2, True), done.stderr


@pytest.mark.slow
def test_a_whole_run_in_a_folder_with_such_a_name_under_a_c_locale(tmp_path):
    place = tmp_path / "größe 猫"
    place.mkdir()
    small = " ".join(SMALL) + " --diffusion.num-steps 1 --classifier.num-steps 0 --diffusion.sample-every 0"
    lines = f"""cd '{place}' && guided_jax train digits --out läufe --data.dir dätä {small} \
      && guided_jax sample läufe --steps 2 --num-samples 2 --out übung && guided_jax nll läufe --num-samples 2 --steps 2"""
    done = shell(lines, **C_LOCALE)
    assert done.returncode == 0, done.stderr
    assert {"läufe", "dätä", "übung"} <= {path.name for path in place.iterdir()}
    assert "bits per dimension of 2 pictures" in done.stdout


def test_the_demo_says_what_it_will_do_before_anything_slow_is_imported():
    code = """
import sys
sys.modules.update({name: None for name in ("jax", "numpy", "sklearn", "tensorflow_datasets")})
from guided_jax.app import cli
cli.main(["demo", "--scales", "1", "3", "--out", "runs/here"])
"""
    done = command(["-c", code])
    assert "guided-jax demo: train a U-Net and a classifier on digits into runs/here" in done.stdout
    assert "at the scales 1 3" in done.stdout
    assert "minutes" in done.stdout
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("words", [["--num-samples", "0"], ["--scales"], ["--scales", "nan"]])
def test_a_demo_that_cannot_be_is_refused_before_it_trains(words, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["demo", *words, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_the_doors_are_the_commands(capsys):
    """One by a process of its own; of the other it differs in the name and the line that describes it."""
    train, sample = (Path(ROOT / f"{name}.py").read_text() for name in ("train", "sample"))
    assert train.count("\n") < 12
    assert train.partition("\n")[2].replace("train", "sample") == sample.partition("\n")[2]
    assert "guided-jax sample" in command([str(ROOT / "sample.py"), "--help"]).stdout


@pytest.mark.parametrize(
    ("environ", "setting", "glibc", "asked"),
    [
        ({}, "always [madvise] never", "glibc 2.41", True),
        ({cli.TUNABLES: "glibc.malloc.check=1"}, "always [madvise] never", "glibc 2.41", False),  # the user's own
        ({}, "[always] madvise never", "glibc 2.41", False),  # already there
        ({}, "always madvise [never]", "glibc 2.41", False),
        ({}, None, "glibc 2.41", False),
        ({}, "always [madvise] never", "glibc 2.31", False),  # which does not know it
        ({}, "always [madvise] never", None, False),
    ],
)
def test_large_pages_are_asked_for_where_that_helps(environ, setting, glibc, asked, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "confstr", lambda name: glibc, raising=False)
    place = tmp_path / "enabled"
    if setting:
        place.write_text(setting)
    assert cli.large_pages(environ, place) == ({cli.TUNABLES: "glibc.malloc.hugetlb=1"} if asked else {})


def test_a_command_starts_again_with_large_pages_and_the_same_words(monkeypatch):
    started = []
    monkeypatch.setattr(cli, "large_pages", lambda environ: {cli.TUNABLES: "x"})
    monkeypatch.setattr(os, "execv", lambda *given: started.append(given))
    monkeypatch.setenv(cli.TUNABLES, "")  # so that it is restored
    cli.start_again()
    assert started == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]
    assert os.environ[cli.TUNABLES] == "x"


SPY = """
import gc, sys, types
from guided_jax.app import cli
seen = lambda: (gc.isenabled(), gc.get_freeze_count() > 1000, gc.get_threshold()[0] == 10_000)
sys.modules["guided_jax.app.spy"] = types.SimpleNamespace(main=lambda args: print(*seen()))
cli.COMMANDS["spy"], cli.start_again, sys.argv = ("spy", ""), lambda: None, ["guided-jax", "spy"]
cli.main()
gc.disable()  # a caller's own choices stay
gc.unfreeze()
gc.set_threshold(700)
cli.main(["spy"])
"""


def test_a_command_collects_garbage_again_but_not_in_what_was_imported():
    done = subprocess.run([sys.executable, "-c", SPY], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True True True\n" + "False False False\n", "")
