"""Draw on a mixture what a command line asks for, and print how far it is from the law that it claims."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from guided_jax import certificate, parallel
from guided_jax.app import cli, experiments
from guided_jax.app import run as runs
from guided_jax.app.certify import picture, plane
from guided_jax.app.results import check_free
from guided_jax.app.sample import checks, draw, guidances, samplers
from guided_jax.app.sample.parts import Pictures
from guided_jax.app.sample.request import Method, Sampling, option
from guided_jax.app.settings import to_dict
from guided_jax.certificate import Finding, Law, LogDensity
from guided_jax.storage.files import replacing, writable_directory

PAGE = """
usage: guided-jax certify [OPTIONS]

Draw on a mixture in the plane what the options ask for, and say how far it is from the law that it
claims: bias, spread, coverage, modes, distances, each beside that of exact samples. The denoisers
are exact, so what is found is the method's own doing.

  guided-jax certify --guidance classifier-free --scale 3 --sampler ddim --steps 50
  guided-jax certify --guidance mmps --noise-std 0.3 --sampler ddpm
  guided-jax certify --guidance ./mine.py:guide --scale 2

  --guidance NAME         as of guided-jax sample, or FILE.py:function of your own, which is run:
                          (conditional, unconditional, scale) -> denoiser
  --scale FLOAT           default 1
  --label 0|1             the class that is asked for (default 0)
  --sampler, --steps, ... as of guided-jax sample
  --observed FLOAT        measurements: the first coordinate (default 0.7); --noise-std (0.3)
  --count INT             samples (default 2000)
  --out FOLDER            certificate.json, .csv and .png (default: certificates/NAME)
"""
FILES = ("certificate.json", "certificate.csv", "certificate.png")
OF_PICTURES = ("bad", "criterion", "clean_classifier", "clip_model", "image", "control")  # or of other runs
Draw = Callable[[Any], Any]  # key -> x_0 (2,)


@dataclasses.dataclass(frozen=True)
class Certify:
    """Say how far what a guidance and a sampler draw is from the law that they claim."""

    method: tyro.conf.OmitArgPrefixes[Method] = dataclasses.field(default_factory=Method)
    scale: float = 1.0
    """Guidance strength: 0 ignores the label, 1 is the exact conditional, above 1 is sharper."""
    label: int = 0
    """The class that is asked for, 0 or 1: every other mode of six on a circle."""
    observed: float = 0.7
    """Guidances by a measurement: what is measured, the first coordinate of two."""
    count: int = 2000
    """How many samples are drawn."""
    seed: int = 0
    out: Path | None = None
    """Where the certificate goes. Default: certificates/, in a folder named after the method."""
    overwrite: bool = False
    """Replace another certificate in the folder."""


def main(args: Sequence[str]) -> None:
    """Draw, compare, print and write."""
    options = complete(cli.parse(Certify, "guided-jax certify", args, description=PAGE))
    parallel.use_cpu_devices()
    one, claims = prepare(options)
    out = options.out or Path("certificates") / name_of(options)
    check_free([out / name for name in FILES], out / FILES[0], asked(options), options.overwrite)
    samples = sample(one, options.count, options.seed)
    laws = {name: certificate.law(log_density) for name, log_density in claims.items()}
    found = {name: certificate.compare(samples, law, certificate.MODES) for name, law in laws.items()}
    for name, finding in found.items():
        print(f"\n{options.count} samples, and as many exact ones of {name}\n\n{table(finding)}\n")
        print("as claimed: every number is within three deviations" if finding.holds else "not as claimed: see above")
    write(out, options, samples, laws, found)
    print(f"\n{out / FILES[0]}, {FILES[1]} and {FILES[2]}")


def complete(options: Certify) -> Certify:
    """Return the request with what a measurement has by default; ValueError for what a certificate has no use for."""
    if options.label not in range(plane.CLASSES):
        raise ValueError(f"--label is {options.label}; the mixture has the classes 0 and 1")
    for name in OF_PICTURES:
        if getattr(options.method, name) != getattr(Method(), name):
            raise ValueError(f"{option(name)} is for pictures, and a certificate draws points; leave it out")
    if is_own(options) or "measurement" not in guidances.row_of(options.method).needs:
        return options
    settings = options.method.measurement
    if settings.operator != "mask" or settings.mask or settings.measure or settings.hole != "right":
        raise ValueError("a certificate measures the first of two coordinates; leave out --operator, --hole, --measure")
    noise_std = settings.noise_std or 0.3
    measured = dataclasses.replace(settings, measure=("the first coordinate",), noise_std=noise_std)
    return dataclasses.replace(options, method=dataclasses.replace(options.method, measurement=measured))


def is_own(options: Certify) -> bool:
    """Return whether the guidance is a function of the user's own."""
    return ".py:" in options.method.guidance


def unguided(method: Method) -> Method:
    """Return the same method without guidance: the sampler beside a function of the user's own."""
    return dataclasses.replace(method, guidance="none")


def prepare(options: Certify) -> tuple[Draw, dict[str, LogDensity]]:
    """Return key -> one sample, and the laws that it may be compared with, what is claimed first."""
    run = plane.make_run()
    return (_own(options, run) if is_own(options) else _named(options, run)), claims_of(options)


def _named(options: Certify, run: runs.Run) -> Draw:
    request = Sampling(Path("certify"), options.method, scale=(options.scale,), labels=(options.label,))
    checks.check(request, run if "bad" in guidances.row_of(options.method).needs else run._replace(bad=None))
    one, y = draw.make_draw(run, options.method, labelled=True), jnp.array([options.observed, 0.0]).reshape(plane.SHAPE)
    params: dict[str, Any] = {"diffusion": {}, "classifier": {}, "bad": {}}
    pictures = Pictures(y=y)

    def sample_one(key: Any) -> Any:
        found = one(params, key, jnp.int32(options.label), jnp.float32(options.scale), pictures)
        return jnp.reshape(found[0] if isinstance(found, tuple) else found, (2,))

    return sample_one


def _own(options: Certify, run: runs.Run) -> Draw:
    """Return key -> one sample by a function of the user's own, and by the sampler that is named."""
    words, form = options.method.guidance, "(conditional, unconditional, scale), which returns a denoiser"
    guide = experiments.load_function(words, "--guidance", form)
    plain = unguided(options.method)
    checks.check(Sampling(Path("certify"), plain, labels=(options.label,)), run._replace(bad=None))
    levels, step = samplers.levels_of(plain, run.model.levels), samplers.make_step(plain, run.model.levels)
    return certificate.drawer(lambda c, u: guide(c, u, options.scale), step, levels, options.label)


def claims_of(options: Certify) -> dict[str, LogDensity]:
    """Return name -> the law that a request may be compared with; what its formula claims comes first."""
    label, scale, own = options.label, options.scale, certificate.tilted(options.label, 1.0)
    row = None if is_own(options) else guidances.row_of(options.method)
    if row is not None and "measurement" in row.needs:
        noise_std = options.method.measurement.noise_std
        seen = f"p(x | {label}, x_1 + {noise_std:g} n = {options.observed:g})"
        return {seen: lambda x: own(x) - jnp.square((options.observed - x[0]) / noise_std) / 2}
    if scale == 1 or (row is not None and not row.scaled):
        return {f"p(x | {label})": own}
    name = f"p(x)^{1 - scale:g} p(x | {label})^{scale:g}"
    return {name: certificate.tilted(label, scale), f"p(x | {label})": own}


def sample(one: Draw, count: int, seed: int) -> np.ndarray:
    """Return samples (count, 2), drawn by one program. one: key -> a sample. seed: of all."""
    drawn = parallel.parallel_map(one, jax.devices()[:1], in_axes=(0,))
    return np.asarray(drawn(certificate.keys(seed, count)))


def table(finding: Finding) -> str:
    """Return the numbers of the samples beside those of exact ones, and the shares of the modes, as text."""
    lines = [f"{'':10}{'samples':>10}{'exact':>20}"]
    for name, value in finding.found._asdict().items():
        exact = finding.exact[name]
        mark = "  *" if name in finding.beyond else ""
        lines.append(f"{name:10}{value:10.4f}{f'{exact.mean:.4f} ± {exact.std:.4f}':>20}{mark}")
    shares = " ".join(f"{share:.3f}" for share in finding.shares)
    return "\n".join(
        [*lines, f"modes      {shares}", f"claimed    {' '.join(f'{share:.3f}' for share in finding.promised)}"]
    )


def name_of(options: Certify) -> str:
    """Return the name of the folder of a request."""
    method = options.method
    guidance = Path(method.guidance.rpartition(":")[0]).stem if is_own(options) else method.guidance
    return f"{guidance}-{options.scale:g}-{samplers.name_of(unguided(method) if is_own(options) else method)}"


def write(out: Path, options: Certify, samples: np.ndarray, laws: dict[str, Law], found: dict[str, Finding]) -> None:
    """Write the numbers, as JSON and as CSV, and the picture."""
    rows = [
        {
            "law": law,
            "number": name,
            "samples": value,
            "exact": finding.exact[name].mean,
            "deviation": finding.exact[name].std,
        }
        for law, finding in found.items()
        for name, value in finding.found._asdict().items()
    ]
    modes = {name: {"samples": each.shares.tolist(), "claimed": each.promised.tolist()} for name, each in found.items()}
    said = {
        "asked": asked(options),
        "numbers": rows,
        "modes": modes,
        "holds": {name: each.holds for name, each in found.items()},
    }
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    writable_directory(out)
    for file, body in zip(FILES, (json.dumps(said, indent=1), sheet.getvalue()), strict=False):
        with replacing(out / file) as place:
            place.write(body.encode())
    with replacing(out / FILES[2]) as place:
        picture.draw(samples, laws).savefig(place, format="png", dpi=100)


def asked(options: Certify) -> dict[str, Any]:
    """Return what determines the certificate, as JSON holds it."""
    found = to_dict(options)
    return {name: value for name, value in found.items() if name not in ("out", "overwrite")}
