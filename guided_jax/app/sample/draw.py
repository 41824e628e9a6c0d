"""Draw one example, a pure function, and many, compiled over all devices."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import forward, guidance, operators, parallel, reverse, sampler, schedule
from guided_jax.app import preview
from guided_jax.app import run as runs
from guided_jax.app.sample import clouds, diagnostics, guidances, inverse, training_free
from guided_jax.app.sample.parts import Parts, Pictures
from guided_jax.app.sample.request import Method
from guided_jax.app.sample.resolve import Recipe, resolve

Draw = Callable[..., Any]  # (params, key, label, scale, pictures=NONE) -> image
NONE = Pictures()
AS_THEY_ARE = ("judge", "clip", training_free.STRENGTHS)  # params that need not be prepared
OTHERS = ("bad", *AS_THEY_ARE)  # than the networks of the run


def make_draw(run: runs.Run, request: Method, labelled: bool, diagnose: bool = False, chunk: int | None = None) -> Draw:
    """Return (params, key, label, scale, pictures) -> one image (H, W, C), a picture in [-1, 1].

    With `run.decode_size` it is x_0, and pictures.image, masked and truth are too: `make_sampler` decodes and encodes a few
    at once. params: by name, "diffusion" and perhaps "classifier", "bad", "judge" and "clip". labelled: whether the label
    counts for a guidance that needs none. With `diagnose` the function returns (image, observations), and of a guidance
    that saves calls their number after these. With --particles the numbers of the cloud come last. chunk: as of
    `clouds.draw`.
    """
    recipe, common = resolve(request, run), _common(run, request, labelled)._replace(observed=diagnose)
    saves = guidances.row_of(request).saves
    paints = inverse.paints(request)

    def known(pictures: Pictures) -> Any:
        return inverse.thin(pictures.observed, run)

    def draw(params: Any, key: Any, label: Any, scale: Any, pictures: Pictures = NONE) -> Any:
        key_noise, key_run, key_method = jax.random.split(key, 3)
        parts = common._replace(params=prepare(run, params), label=label, scale=scale, key=key_method)
        parts = parts._replace(low_res=pictures.low_res, control=pictures.control, clips_inside=recipe.clips_inside)
        x_0, truth = (_of_image(run, params, key, image) for image in (pictures.image, pictures.truth))
        parts = _measured(parts, pictures, truth, jax.random.fold_in(key_noise, 2))
        if paints and pictures.masked is not None:
            parts = parts._replace(inpaint=jnp.concatenate([1 - known(pictures), pictures.masked], axis=-1))
        denoise, step = _guided(recipe, parts)
        if paints and pictures.masked is None:
            step = reverse.blend(step, known(pictures), x_0, noise(run, key_noise), recipe.levels.t[0])
        observe = _observer(recipe, parts, request) if diagnose else None
        given = None if recipe.from_noise else x_0
        top = schedule.at(recipe.levels, -1)
        if recipe.target is not None:
            begin = functools.partial(start, run, level=top, std=recipe.start_std)
            x_0, numbers = clouds.draw(key_run, recipe, parts, begin, chunk)
            image = x_0 if run.decode_size else run.model.decode(params["diffusion"], x_0)
            return (image, *[{"ess": numbers["ess"]}] * diagnose, numbers)
        x_T = start(run, key_noise, top, given, recipe.start_std)
        x_0, memory, observations = sampler.run(key_run, denoise, step, x_T, recipe.levels, observe)
        if recipe.again is not None:
            x_0 = recipe.again(parts, jax.random.fold_in(key_run, 0), x_0)
        image = x_0 if run.decode_size else run.model.decode(params["diffusion"], x_0)
        more = [observations] * diagnose + [guidance.saved_calls(memory)] * saves
        return (image, *more) if more else image

    return draw


def noise(run: runs.Run, key: Any) -> Any:
    """Return eps, with which an example begins."""
    return jax.random.normal(key, run.model.shape)


def start(run: runs.Run, key: Any, level: schedule.NoiseLevel, x_0: Any = None, std: Any = None) -> Any:
    """Return x_T = sigma eps of the level, or x_t = alpha x_0 + sigma eps for the x_0 of an image.

    std: in the place of sigma, where there is no image.
    """
    eps = noise(run, key)
    return (level.sigma if std is None else std) * eps if x_0 is None else forward.diffuse(x_0, eps, level)


def check_group(settings: Any, devices: list[jax.Device]) -> None:
    """Raise ValueError for a shard_group, of a request or an experiment, that does not divide the devices of a batch."""
    group = settings.shard_group
    if group is not None and len(devices) % group:
        raise ValueError(
            f"--shard-group is {group}, which does not divide the {len(devices)} devices of a batch; give a size that does"
        )


def choose_sharding(settings: Any, devices: list[jax.Device]) -> Callable[[Any], Any] | None:
    """Return leaf -> where it goes; None for parameters that every device has whole. settings: as of `check_group`."""
    check_group(settings, devices)
    return parallel.leaf_sharding(devices, settings.shard_group) if settings.shard_parameters else None


def choose_map(settings: Any) -> Callable[..., Callable[..., Any]]:
    """Return the map for parameters that are where `choose_sharding` says. settings: as of `check_group`."""
    if settings.shard_parameters:
        return functools.partial(parallel.sharded_map, group=settings.shard_group)
    return parallel.parallel_map


def in_chunks(
    fn: Callable[..., Any], devices: list[jax.Device], in_axes: tuple[int | None, ...], size: int, mapping: Any
) -> Callable[..., np.ndarray]:
    """Return fn of N examples, `size` at once on each device. in_axes: as of `parallel.parallel_map`.

    mapping: `parallel.parallel_map`, or `parallel.sharded_map` for divided parameters.
    """
    mapped = mapping(fn, devices, in_axes)

    def call(*arguments: Any) -> np.ndarray:
        count = next(len(argument) for argument, axis in zip(arguments, in_axes, strict=True) if axis == 0)

        def chunk(indices: np.ndarray) -> np.ndarray:
            return mapped(*(a[indices] if axis == 0 else a for a, axis in zip(arguments, in_axes, strict=True)))

        return np.concatenate(list(parallel.map_in_chunks(chunk, count, min(size * len(devices), count))))

    return call


def encode(run: runs.Run, params: Any, key: Any, image: Any) -> Any:
    """Return x_0 of an image that an example starts from; key: of the example."""
    key_noise, _, _ = jax.random.split(key, 3)
    return run.model.encode(params, jax.random.fold_in(key_noise, 1), image)


def _of_image(run: runs.Run, params: Any, key: Any, image: Any) -> Any:
    """Return the x_0 of an image, None for none; what `make_sampler` has encoded is one already."""
    return image if image is None or run.decode_size else encode(run, params["diffusion"], key, image)


def _measured(parts: Parts, pictures: Pictures, truth: Any, key: Any) -> Parts:
    """Return the parts with the measurement of this example. truth: the x_0 that is measured, None for pixels."""
    known, latents = pictures.observed, inverse.measures_latents(parts.request, parts.run)
    if known is not None and parts.operator is not None:
        parts = parts._replace(operator=operators.mask(inverse.thin(known, parts.run) if latents else known))
    if truth is None:
        return parts._replace(y=pictures.y)
    settings, operator = parts.request.measurement, parts.operator
    assert operator is not None
    seen = operator.forward(jnp.ones_like(truth)) if settings.operator == "mask" else 1.0
    return parts._replace(y=inverse.measure(operator, truth, settings.noise_std, key, seen))


def _common(run: runs.Run, request: Method, labelled: bool) -> Parts:
    """Return the parts that all examples share."""
    measured = "measurement" in guidances.row_of(request).needs
    operator = inverse.make_operator(request, run) if measured else None
    places = inverse.observed_places(request, run) if measured else None
    return Parts(run, request, {}, labelled=labelled, operator=operator, places=places)


def _guided(recipe: Recipe, parts: Parts) -> tuple[Any, reverse.ReverseStep]:
    """Return (denoiser, step), with the memory of a stateful guidance in the step."""
    denoise = recipe.guide(parts)
    if parts.run.self_conditioning or (parts.run.bad is not None and parts.run.bad.self_conditioning):
        denoise = guidance.self_conditioned(lambda estimate: recipe.guide(parts._replace(estimate=estimate)))
    step = recipe.step(parts)
    if isinstance(denoise, guidance.Stateful):
        return guidance.first_state(denoise), reverse.with_state(denoise, step)
    return denoise, step


def _observer(recipe: Recipe, parts: Parts, request: Method) -> sampler.Observe:
    has_classifier = "classifier" in parts.params and (parts.labelled or guidances.row_of(request).labelled)
    return diagnostics.observer(parts, request, has_classifier, recipe.clip)


def prepare(run: runs.Run, params: Any) -> Any:
    """Return the params of each network as it computes with them, made once before a drawing's steps."""
    prepared = {name: run.prepare(name, weights) for name, weights in params.items() if name not in OTHERS}
    if "bad" in params:
        prepared["bad"] = run.bad.prepare("diffusion", params["bad"])
    return prepared | {name: params[name] for name in AS_THEY_ARE if name in params}


class Drawn(NamedTuple):
    """Samples (N, ...) as `preview.stored` returns them, whether each is finite (N,), and observations (N, steps).

    saved: (N,), of a guidance that saves calls, at how many steps it did. cloud: "ess" (N, steps) and "log_evidence" (N,),
    of particles.
    """

    images: np.ndarray
    finite: np.ndarray
    observations: Any = None
    saved: np.ndarray | None = None
    cloud: dict[str, np.ndarray] | None = None


@parallel.jit  # one program, and not one for each of its operations
@jax.vmap
def _keys(seed: jax.Array, index: jax.Array) -> jax.Array:
    return sampler.keys(jax.random.fold_in(jax.random.key(seed), 0), index[None])[0]


@parallel.jit
@jax.vmap
def _other(key: jax.Array) -> jax.Array:
    """Return a key of its own for the encoder's noise of a masked picture."""
    return jax.random.fold_in(key, 3)


def make_sampler(
    run: runs.Run,
    request: Method,
    labelled: bool,
    devices: list[jax.Device],
    diagnose: bool = False,
    mapping: Callable[..., Callable[..., Any]] = parallel.parallel_map,
    chunk: int | None = None,
) -> Callable[..., Drawn]:
    """Return (params, indices, labels, scales, seed, pictures=NONE) -> `Drawn`, compiled once for a chunk.

    seed: one, or one for each example, which with its index determines the sample. The params have to be on the devices, as
    `place` puts them, or divided over them. mapping: as `choose_map` returns it. chunk: as of `clouds.draw`.
    """
    draw = make_draw(run, request, labelled, diagnose, chunk)
    compiled = mapping(draw, devices, in_axes=(None, 0, 0, 0, 0))
    size = run.decode_size or 0
    decode = in_chunks(run.model.decode, devices, (None, 0), size, mapping)
    encoded = in_chunks(functools.partial(encode, run), devices, (None, 0, 0), size, mapping)

    def call(params: Any, indices: Any, labels: Any, scales: Any, seed: Any, pictures: Pictures = NONE) -> Drawn:
        keys = _keys(np.broadcast_to(np.asarray(seed, np.uint32), np.shape(indices)), np.asarray(indices))
        # Numbers of words stay integers, and states of a text floats.
        kind = {"class": np.dtype(np.int32), "text": labels.dtype}.get(run.facts.labelling, np.dtype(np.float32))
        given = {"image": (keys, pictures.image), "truth": (keys, pictures.truth)} if size else {}
        if size and pictures.masked is not None:
            given["masked"] = _other(keys), pictures.masked
        latents = {name: encoded(params["diffusion"], *it) for name, it in given.items() if it[1] is not None}
        pictures = pictures._replace(**latents)
        found = compiled(params, keys, labels.astype(kind), scales.astype(np.float32), pictures)
        x, *more = found if isinstance(found, tuple) else (found,)
        x = decode(params["diffusion"], x) if size else x
        finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
        observations = more.pop(0) if diagnose else None
        cloud = more.pop() if request.particles is not None else None
        return Drawn(preview.stored(x, run.facts, finite), finite, observations, more.pop() if more else None, cloud)

    return call


def place(run: runs.Run, params: Any, devices: list[jax.Device]) -> Any:
    """Return the params on every device, prepared once for all chunks."""
    return parallel.replicate(parallel.jit(functools.partial(prepare, run))(params), devices)
