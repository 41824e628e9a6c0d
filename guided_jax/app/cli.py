"""The command line: `guided-jax COMMAND ...`, arguments into dataclasses, wrong use into one sentence and exit code 2."""

import contextlib
import functools
import gc
import importlib
import inspect
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from guided_jax.app import ambient, compilation_cache, errors, limits, together

T = TypeVar("T")
Main = Callable[[Sequence[str]], None]
TUNABLES, GLIBC = "GLIBC_TUNABLES", "CS_GNU_LIBC_VERSION"
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# Command -> (the module whose `main` runs it, what it does). JAX is imported with the module, not before.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train.command", "train every network of an experiment; resumes by itself"),
    "sample": ("sample.command", "draw guided samples from a run"),
    "sweep": ("sweep.command", "draw and measure samples at several scales; one page with the curves"),
    "metrics": ("metrics", "measure samples against a reference: FID, KID, precision, recall, ..."),
    "nll": ("nll", "bits per dimension of pictures under a run"),
    "convert": ("convert.command", "make a run of published weights"),
    "certify": ("certify.command", "how far a guidance is from the law that it claims, on a known one"),
    "judge": ("judge", "train the classifier that judges samples"),
    "posthoc": ("posthoc", "make averaged weights of another length after training"),
    "curves": ("train.curves", "draw the curves of a run again"),
    "demo": ("demo.command", "train on digits, draw guided ones, judge them"),
}
OVERVIEW = """usage: guided-jax COMMAND [OPTIONS]

Guidance for diffusion models in JAX: train, sample, measure.

{commands}

  guided-jax demo
  guided-jax train digits
  guided-jax sample runs/digits --guidance classifier-free --scale 3 --labels 3 7

guided-jax COMMAND --help: one page on a command; guided-jax COMMAND --help-all: every option
variables: GUIDED_JAX_CACHE=off|FOLDER, where compiled programs are kept (as --compilation-cache);
GUIDED_JAX_TRACEBACK=1, show where an error comes from; JAX_PLATFORMS=cpu, leave accelerators alone"""
EVERYWHERE = """
Every command takes --compilation-cache off|FOLDER: where compiled programs are kept for the next command.
train, sample, sweep, metrics, nll and judge run as several processes, each started with the same command: with
--distributed.auto on TPU pods, under Slurm and Open MPI, and elsewhere with --distributed.coordinator HOST:PORT,
--distributed.num-processes N and --distributed.process-id I."""


def main(argv: Sequence[str] | None = None, command: str | None = None) -> None:
    """Run the command that the first word names with the words after it; `guided-jax` itself.

    argv: the words; those of the process if None. command: the first of them, for a script that runs one command.
    """
    if argv is None:
        start_again()
        gc.disable()  # until the command is imported: next to nothing that an import makes is garbage
    open_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    name, *rest = ([command] if command else []) + words or ["--help"]

    def run(args: Sequence[str]) -> None:
        if name in ("-h", "--help"):
            print(overview())
        elif name == "--version":
            from guided_jax import __version__

            print(__version__)
        else:
            dispatch(name, args, alone=argv is None)

    script(run, rest)


def dispatch(name: str, args: Sequence[str], alone: bool = False) -> None:
    """Import a command and run it; alone: in a process of its own. Raises ValueError for a name that is no command."""
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}; there is {', '.join(COMMANDS)}")
    cache, rest = compilation_cache.take_option(args)
    compilation_cache.enable(cache)
    ambient.ignore()
    shared, rest = together.take_options(rest)
    settings = parse(together.Options, f"guided-jax {name}", shared).distributed if shared else together.Distributed()
    with together.joined(name, settings):
        command = importlib.import_module(f"guided_jax.app.{COMMANDS[name][0]}")
        if alone:
            collect_less()
        command.main(rest)


def collect_less() -> None:
    """Let Python look for garbage again, but less often, and never in what is imported by now.

    Tracing a network makes millions of objects that stay. To look through them took a tenth of the time of a command whose
    programs are compiled already.
    """
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def overview() -> str:
    """Return the page that lists the commands."""
    width = max(map(len, COMMANDS))
    return OVERVIEW.format(commands="\n".join(f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items()))


def start_again() -> None:
    """Start the process again where Python or the C library has to be told something before it starts.

    Python's UTF-8 mode, where the locale is another, such as C without UTF-8: there Python reads file names in a way that
    what is written in C++ (Orbax, tokenizers) does not. And large pages for what glibc allocates, see `large_pages`.
    """
    utf8 = sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode
    variables = large_pages(os.environ)
    if sys.executable and (utf8 or variables):
        os.environ.update(variables)
        os.execv(sys.executable, [sys.executable, *(["-X", "utf8"] if utf8 else []), *sys.orig_argv[1:]])


def large_pages(environ: Mapping[str, str], setting: Path = LARGE_PAGES) -> dict[str, str]:
    """Return the variables to start with for pages of 2 MB in the place of 4 kB, none where that is done or impossible.

    XLA on CPU allocates the buffers of each step anew, and to hand them out page by page takes the kernel a large part of
    the time of training.

    environ: the variables that there are; a GLIBC_TUNABLES of the user's own stays as it is. setting: the file of the
    kernel that says which processes get such pages; "madvise": those that ask.
    """
    if TUNABLES in environ or not setting.is_file() or "[madvise]" not in setting.read_text():
        return {}
    library = os.confstr(GLIBC) if GLIBC in os.confstr_names else None  # other C libraries do not know the name
    name, _, version = (library or "").partition(" ")
    known = name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)
    return {TUNABLES: "glibc.malloc.hugetlb=1"} if known else {}


def open_streams() -> None:
    """Make stdout and stderr take any text, and open closed ones on the null device.

    A stream that cannot encode a character writes its escape, so that a result in another alphabet never ends a command.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the new file also takes the closed number, which would else go to a file of results
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse(kind: type[T], prog: str, args: Sequence[str], default: Any = None, description: str = "") -> T:
    """Return the dataclass that a command line describes.

    --help prints `description`, the command's page, and exits; --help-all prints every option. Wrong arguments, and numbers
    out of their range, raise ValueError in one sentence.
    """
    import tyro

    page = inspect.cleandoc(description)
    if any(word in ("-h", "--help") for word in args):
        print(f"{page}\n\n{prog} --help-all: every option")
        raise SystemExit(0)
    words = ["--help" if word == "--help-all" else word for word in args]
    settings = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options = tyro.cli(kind, prog=prog, args=words, description=f"{page}\n{EVERYWHERE}", **settings)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_sentence(complaint.getvalue())}; see {prog} --help") from None
    limits.check(options)
    return options


def _sentence(box: str) -> str:
    """Return the first paragraph inside the frame, of lines or of dashes, that tyro draws around an error."""
    lines = [line.strip("│| ") for line in box.splitlines()[1:]]  # without the title
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if set(line) <= set("─-╰╯+"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    first = next(filter(None, paragraphs), ["wrong arguments"])
    words = re.sub(r"\s+", " ", " ".join(first)).strip().rstrip(".")
    kind = re.fullmatch(r"Error parsing (\S+): no type matching (.+) could be instantiated from \[(.*)\]", words)
    if kind is None:
        return words
    # tyro's sentence about a value of the wrong kind, whose types in brackets are its own spelling
    wanted = re.sub(r"[{}]", "", kind[2].removeprefix("{None}|"))
    return f"{kind[1]} is {kind[3]}; give {wanted}"


def script(run: Main, argv: Sequence[str] | None = None) -> None:
    """Call run(arguments), those of the process if None; wrong use becomes one sentence on stderr and exit code 2.

    Which errors are wrong use, and not a bug of ours, `errors.sentence` decides.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
            try:
                run(sys.argv[1:] if argv is None else argv)
            finally:
                print(end="", flush=True)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is saved", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception as error:
        message = errors.sentence(error, Path(inspect.getfile(inspect.unwrap(run))))
        if message is None:
            raise
        with contextlib.suppress(OSError):  # stderr may be on a full disk
            print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _show_warning(
    otherwise: Callable[..., None],
    message: Any,
    category: type,
    filename: str,
    lineno: int,
    file: Any = None,
    line: Any = None,
) -> None:
    """Print a warning of the package as one line, without the code that raised it."""
    if category.__module__.startswith("guided_jax"):
        print(f"warning: {message}", file=sys.stderr)
    else:
        otherwise(message, category, filename, lineno, file, line)
