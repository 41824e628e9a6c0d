"""What a run and a request offer to a guidance, for one example."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import guidance, operators, schedule
from guided_jax.app import run as runs
from guided_jax.app.sample import annealing, clip_guide
from guided_jax.app.sample.request import CLASSIFIER, CLIP, Method
from guided_jax.criteria.log_prob import Logits
from guided_jax.denoiser import Denoiser
from guided_jax.guidance import LogProb
from guided_jax.guidance.self_attention import Mask
from guided_jax.model import denoiser as denoiser_of
from guided_jax.model import network_input
from guided_jax.operators import Operator


class Pictures(NamedTuple):
    """The pictures that an example is drawn with; each None where the request has none.

    image: a clean one in [-1, 1] to start from, or to paint in, instead of noise. masked: the same, grey in its hole, of a
    run that is told what to paint in. y: a measurement of pixels. observed: 1 where it or the image is known, 0 in its
    hole, where these differ among the examples. low_res: what an upsampler starts from. truth: the true picture, whose
    encoding is measured in the place of y where latents are. control: what a ControlNet reads, in [0, 1].
    """

    image: Any = None
    masked: Any = None
    y: Any = None
    observed: Any = None
    low_res: Any = None
    truth: Any = None
    control: Any = None


class Parts(NamedTuple):
    """One example: the networks' parameters by name, the label, the strength, and a key for methods that draw.

    labelled: whether labels were given; a guidance that needs none leaves the label out where they were not.
    clips_inside: whether every prediction of the network is clipped, before the guidance.
    operator, y: the measurement of this example, of pixels or of latents. low_res: the picture that an upsampler starts
    from. inpaint: the mask and the latents of the masked picture, for a network that is told what to paint in. estimate:
    the last predicted x_0, for a network with self-conditioning. control: what a ControlNet reads. pair: the model with the
    label and with the null condition, where one program of the network serves both. observed: whether an observer calls the
    networks too. anneals: whether there is noise in the condition of `conditional`. levels: those that a run visits, for a
    guidance of the step. places: the positions in the flattened measurement that are observed, where all examples share
    them.
    """

    run: runs.Run
    request: Method
    params: Mapping[str, Any]
    label: Any = 0
    scale: Any = 1.0
    key: Any = None
    labelled: bool = True
    clips_inside: bool = False
    operator: Operator | None = None
    y: Any = None
    low_res: Any = None
    inpaint: Any = None
    estimate: Any = None
    control: Any = None
    pair: tuple[Denoiser, Denoiser] | None = None
    observed: bool = False
    anneals: bool = False
    levels: schedule.NoiseLevel | None = None
    places: np.ndarray | None = None

    def model(self, label: Any) -> Denoiser:
        """Return the run's denoiser for a label."""
        return self._denoiser(self.run.raw(label))

    def _denoiser(self, raw: Any, **fields: Any) -> Denoiser:
        return self._of_condition(self.run.model.condition(self.params["diffusion"], raw), **fields)

    def _of_condition(self, condition: Any, **fields: Any) -> Denoiser:
        estimate = self.estimate if self.run.self_conditioning else None
        condition = self._told(self.run, condition)
        made = runs.make_denoiser(self.run, self.params["diffusion"], condition, fields, self.low_res, estimate)
        return guidance.clip(made, -self.run.bound, self.run.bound) if self.clips_inside else made

    def _of_params(self, condition: Any, params: Any = None) -> Denoiser:
        """Return the denoiser of a condition, with other params of the network where they are given."""
        changed = self.params if params is None else {**self.params, "diffusion": params}
        return self._replace(params=changed)._of_condition(condition)

    def _told(self, run: runs.Run, condition: Any) -> Any:
        """Return the condition of a run with what it is told to paint in, and what the ControlNet of this run reads."""
        if self.control is not None and run is self.run:
            scale = self.request.control_scale
            condition = {**condition, "control_image": self.control, "control_scale": scale}
        return {**condition, "inpaint": self.inpaint} if run.text is not None and run.text.takes_mask else condition

    def paired(self, guide: Callable[["Parts"], Denoiser]) -> Denoiser:
        """guide(self), with one program of the network for `conditional` and `unconditional`: half the time to compile.

        guide: parts -> the guided denoiser, by calls of these two at the same x_t and level. The two stay apart where their
        conditions differ in structure or shape, as those of a network of the user's own may.
        """
        raws = self.run.raw(self.label), self.null
        both = [self.run.model.condition(self.params["diffusion"], raw) for raw in raws]
        shapes = [jax.tree.map(jnp.shape, condition) for condition in both]
        if shapes[0] != shapes[1]:
            return guide(self)
        conditions = jax.tree.map(lambda *leaves: jnp.stack(leaves), *both)
        loop = jax.default_backend() == "cpu"
        return guidance.batched(
            self._of_condition, conditions, lambda c, u: guide(self._replace(pair=(c, u))), loop=loop
        )

    @property
    def null(self) -> Any:
        """The raw condition that stands for no label: that of the model, or the negative prompt beside this one."""
        return self.run.model.null if self.run.null is None else self.run.null(self.label)

    @property
    def conditional(self) -> Denoiser:
        """The model with the label."""
        if self.anneals:
            return annealing.annealed(self.request.anneal, self, self._of_params)
        return self.pair[0] if self.pair else self.model(self.label)

    @property
    def distilled(self) -> Denoiser:
        """The model with the label, told the scale."""
        condition = self.run.model.condition(self.params["diffusion"], self.run.raw(self.label))
        return guidance.distilled(lambda scale: self._of_condition(condition._replace(scale=scale)), self.scale)

    @property
    def unconditional(self) -> Denoiser:
        """The model with the null condition."""
        return self.pair[1] if self.pair else self._denoiser(self.null)

    @property
    def base(self) -> Denoiser:
        """What a classifier guides: the model with the null condition, or with the label where it has none.

        With the label the scale counts from the conditional model. With --label-scale it is classifier-free guidance.
        """
        if self.request.label_scale is not None:
            return guidance.classifier_free(self.conditional, self.unconditional, self.request.label_scale)
        return self.conditional if self.run.model.null is None else self.unconditional

    @property
    def _uses_label(self) -> bool:
        return self.labelled or self.run.model.null is None

    def plain(self, **fields: Any) -> Denoiser:
        """Return the model for a guidance that needs no label: with the label if labels were given, or there is no null.

        fields: of its module that are changed, as of `Run.variant`.
        """
        return self._denoiser(self._raw, **fields)

    @property
    def two_heads(self) -> guidance.Pair:
        """The predictions of `plain` and of the internal head of its network, by one call."""
        run, params = self.run, self.params["diffusion"]
        assert run.variant is not None
        estimate = self.estimate if run.self_conditioning else None
        network = run.variant({"both_heads": True}, self.low_res, estimate)
        condition = self._told(run, run.model.condition(params, self._raw))

        def make(network: Callable[..., Any]) -> Denoiser:
            made = denoiser_of(run.model._replace(network=network), params, condition)
            return guidance.clip(made, -run.bound, run.bound) if self.clips_inside else made

        return guidance.two_heads(make, network)

    @property
    def _raw(self) -> Any:
        return self.run.raw(self.label) if self._uses_label else self.null

    @property
    def bad_model(self) -> Denoiser:
        """The model of the run of --bad, with the condition of `plain`."""
        bad = self.run.bad
        return self._bad(bad.raw(self.label) if self._uses_label or bad.model.null is None else bad.model.null)

    @property
    def bad_null(self) -> Denoiser:
        """The model of the run of --bad without a label, or with the negative prompt."""
        bad = self.run.bad
        return self._bad(bad.model.null if bad.null is None else bad.null(self.label))  # None for one without labels

    def _bad(self, raw: Any) -> Denoiser:
        bad = self.run.bad
        condition = self._told(bad, bad.model.condition(self.params["bad"], raw))
        estimate = self.estimate if bad.self_conditioning else None
        return runs.make_denoiser(bad, self.params["bad"], condition, low_res=self.low_res, estimate=estimate)

    @property
    def log_prob(self) -> LogProb:
        """log p(label | x_t) by the run's classifier, or of any of --any-of; by a CLIP how well x_t shows the prompt.

        The other prompts of a request do not count against it.
        """
        classifier, prompts = self.run.classifier, self.run.text is not None
        assert classifier is not None
        return self._of_logits(lambda x, level: classifier(self.params["classifier"], x, level), among=not prompts)

    @property
    def clean_base(self) -> Denoiser:
        """What a criterion of clean examples guides: `base` for a classifier, `plain_base` for any other."""
        return self.base if self.request.criterion == CLASSIFIER else self.plain_base

    @property
    def plain_base(self) -> Denoiser:
        """`plain`, or with --label-scale classifier-free guidance."""
        return self.plain() if self.request.label_scale is None else self.base

    @property
    def clean_log_prob(self) -> LogProb:
        """The criterion of x_0, or log p(label | x_0): by the judge of the picture, or without one by the noisy classifier
        at the first level."""
        if self.request.criterion == CLIP:
            return clip_guide.criterion(self)
        judge, criterion, first = self.run.judge, self.run.criterion, schedule.at(self.run.model.levels, 1)
        if criterion is not None:
            if self.run.latent and not self.sees_pixels:
                return criterion
            return lambda x_0, level: criterion(self.decode(x_0), level)
        if judge is None:
            return lambda x_0, level: self.log_prob(x_0, first._replace(t=jnp.ones_like(level.t)))
        return self._of_logits(lambda x_0, level: judge.network.apply(self.params["judge"], self.decode(x_0))[1])

    def _of_logits(self, logits: Logits, among: bool = True) -> LogProb:
        wanted = jnp.asarray(self.request.any_of) if self.request.any_of else self.label
        inverse_temperature = 1 / self.request.temperature
        return guidance.from_logits(logits, wanted, joint=inverse_temperature, marginal=among * inverse_temperature)

    def decode(self, x_0: Any) -> Any:
        """Return the picture of x_0."""
        return self.run.model.decode(self.params["diffusion"], x_0)

    def encode(self, image: Any) -> Any:
        """Return the x_0 of a picture, for this example always with the same noise of the encoder."""
        return self.run.model.encode(self.params["diffusion"], self.key, image)

    @property
    def sees_pixels(self) -> bool:
        """Whether the measurement is of the pixels that a decoder makes of x_0."""
        return self.run.latent and self.request.space == "pixels"

    @property
    def data_std(self) -> float:
        """The standard deviation of what is measured."""
        given = self.request.measurement.data_std
        return given if given is not None else usual_data_std(self.request, self.run)

    @property
    def measurement(self) -> Operator:
        """A of this example, after the decoder where pixels are measured."""
        assert self.operator is not None
        if not self.sees_pixels:
            return self.operator
        return operators.through(self.operator, self.decode, (self.data_std / self.run.data_std) ** 2)

    @property
    def attended(self) -> Mask:
        """(x_t, level) -> whether the network attends to each pixel of x_t more than on average, (h, w)."""
        run, params = self.run, self.params["diffusion"]
        estimate = self.estimate if run.self_conditioning else None

        def mask(x_t: Any, level: schedule.NoiseLevel) -> Any:
            x, time = network_input(run.model, x_t, level)
            assert run.attention is not None
            condition = self._told(run, run.model.condition(params, self._raw))
            return run.attention(params, x, time, condition, self.low_res, estimate) > 1

        return mask


def usual_data_std(request: Method, run: runs.Run) -> float:
    """Return the standard deviation of what is measured, without --data-std: of pixels in [-1, 1], or of latents."""
    return 0.5 if run.latent and request.space == "pixels" else run.data_std
