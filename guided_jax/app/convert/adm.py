"""A run directory of OpenAI's weights: what `guided-jax convert` writes and `guided-jax sample` takes."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from guided_jax.app import config_file, facts, limits, settings
from guided_jax.app import run as runs
from guided_jax.app.train import folder
from guided_jax.pretrained import adm
from guided_jax.storage import checkpoint, manifest

OPTIONAL = ("schedule", "num_steps", "classifier", "low_res")  # beside unet in a JSON file


class Architecture(NamedTuple):
    """What the weights belong to, and how their authors sampled them."""

    unet: dict[str, Any]  # the reference constructor's arguments, as its classifier's
    classifier: dict[str, Any] | None = None
    schedule: Literal["linear", "cosine"] = "linear"
    num_steps: int = 1000
    low_res: int | None = None  # the side of what an upsampler starts from
    scale: float = 1.0  # what its authors guided it with
    steps: int = 250


def named(model: str, classifier: str | None) -> Architecture:
    """Return a published model with its classifier; ValueError lists those that there are."""
    for name, known in ((model, adm.MODELS), (classifier, adm.CLASSIFIERS)):
        if name is not None and name not in known:
            raise ValueError(f"there is no published {name!r}; there is {', '.join(known)}")
    found = adm.MODELS[model]
    own = None if classifier is None else adm.CLASSIFIERS[classifier].config
    kind: Literal["linear", "cosine"] = "cosine" if found.schedule == "cosine" else "linear"
    return Architecture(found.config, own, kind, 1000, found.low_res, found.scale, found.steps)


def command(out: Path, model: Architecture, guided: bool) -> str:
    """Return the command that samples the run as its authors did."""
    base = " --base-samples SAMPLES.npz" if model.low_res else ""
    guidance = f" --guidance classifier --scale {model.scale:g}" if guided else ""
    steps = min(model.steps, model.num_steps)
    return f"guided-jax sample {out}{base}{guidance} --sampler ddpm --steps {steps} --clip-base"


def read(path: Path) -> Architecture:
    """Return what a JSON file describes: unet, and perhaps classifier, schedule, num_steps, low_res.

    Raises OSError for a file that cannot be read, ValueError for one that describes no network.
    """
    try:
        found = json.loads(path.read_text())
        unknown = set(found) - {"unet", *OPTIONAL}
        if unknown or "unet" not in found:
            raise ValueError(f"{path} has to hold unet, and perhaps {', '.join(OPTIONAL)}; it holds {', '.join(found)}")
        model = Architecture(**found)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object of settings ({error})") from None
    if wrong := _wrong(model):
        raise ValueError(f"{path}: {wrong}")
    return model


def _wrong(model: Architecture) -> str | None:
    """Return what is wrong with values from a file, None for nothing."""
    if model.schedule not in ("linear", "cosine"):
        return f"schedule is {model.schedule!r}; give linear or cosine"
    counts = {"num_steps": (model.num_steps, limits.MOST_LEVELS), "low_res": (model.low_res, limits.LARGEST_SIDE)}
    for name, (value, most) in counts.items():
        if not (type(value) is int and 1 <= value <= most) and (name, value) != ("low_res", None):
            return f"{name} is {value!r}; give a number from 1 to {most}"
    try:
        adm.unet(model.unet)
        if model.classifier is not None:
            adm.classifier(model.classifier)
    except ValueError as error:
        return str(error)
    except (TypeError, AttributeError) as error:
        return f"unet and classifier have to be arguments of the reference's constructors ({error})"
    return None


def experiment(model: Architecture) -> settings.Experiment:
    """Return the settings with which `run.assemble` makes the networks that `adm.load_unet` and `load_classifier` make."""
    unet = adm.unet(model.unet)
    diffusion = settings.Diffusion(
        num_steps=0,
        conditional=unet.num_classes is not None,
        label_dropout=0.0,
        learned_variance=unet.out_channels == 2 * model.unet["in_channels"],
        low_res=model.low_res,
        network=_fields(settings.UNet, unet),
    )
    own = adm.classifier(model.classifier) if model.classifier else None
    classifier = settings.Classifier(num_steps=0, network=_fields(settings.Encoder, own) if own else settings.Encoder())
    levels = settings.Schedule(name=model.schedule, num_steps=model.num_steps)
    no_data = settings.Data(name=settings.NO_DATA)
    return settings.Experiment(no_data, levels, diffusion, classifier)


def _fields(kind: Any, module: Any) -> Any:
    """Return the settings of a module."""
    found = {name: getattr(module, name) for name in kind.__dataclass_fields__ if name != "dtype"}
    return kind(**{name: tuple(value) if isinstance(value, list | tuple) else value for name, value in found.items()})


def facts_of(model: Architecture) -> facts.Facts:
    """Return what the weights tell of the data: its size, and how many classes, all of them equally frequent."""
    size, channels = model.unet["image_size"], model.unet["in_channels"]
    classes = model.unet.get("num_classes") or (model.classifier or {}).get("out_channels", 1)
    return facts.Facts((size, size, channels), classes, (1 / classes,) * classes)


def check_free(out: Path, model: Architecture) -> None:
    """Raise ValueError for a folder with a run, or with checkpoints that are not of this model.

    What an interrupted conversion left is none: it writes config.json last.
    """
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a run already; give another --out, or delete it")
    config = settings.to_dict(experiment(model))
    for part, step in _saved(out):
        if manifest.read_notes(_checkpoints(out, part) / str(step)).get("config") != config:
            raise ValueError(f"{out / part} holds checkpoints of another model; give another --out")


def write(out: Path, model: Architecture, weights: Mapping[str, Any], classifier: Mapping[str, Any] | None) -> None:
    """Write the run directory; ValueError names every weight missing, surplus or misshapen, before any is written."""
    parts = {"diffusion": adm.load_unet(model.unet, weights)[1]}
    if classifier is not None and model.classifier is not None:
        parts["classifier"] = adm.load_classifier(model.classifier, classifier)[1]
    made = experiment(model)
    with folder.exclusive(out):
        check_free(out, model)
        for part, step in _saved(out):  # of an interrupted conversion
            shutil.rmtree(_checkpoints(out, part) / str(step))
        for part in list(parts):
            with checkpoint.opened(_checkpoints(out, part), keep=1) as saved:
                checkpoint.save(saved, 1, {"ema": parts.pop(part)}, config=settings.to_dict(made), frugal=True)
        config_file.create(out, made, facts_of(model))


def _checkpoints(out: Path, part: str) -> Path:
    return out / part / "checkpoints"


def _saved(out: Path) -> list[tuple[str, int]]:
    """Return (part, step) of every checkpoint in a folder."""
    return [(part, step) for part in runs.PARTS for step in checkpoint.steps(_checkpoints(out, part))]
