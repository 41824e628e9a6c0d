"""What a run and a request offer to a guidance, for one example."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from guided_jax import guidance
from guided_jax.app import run as runs
from guided_jax.app.sample.request import Method
from guided_jax.denoiser import Denoiser
from guided_jax.guidance import LogProb
from guided_jax.operators import Operator


class Pictures(NamedTuple):
    """The pictures that an example is drawn with; each None where the request has none.

    image: a clean one in [-1, 1] to start from, instead of noise. y: a measurement. observed: 1 where y is known, 0 in its
    hole, where these differ among the examples. low_res: what an upsampler starts from.
    """

    image: Any = None
    y: Any = None
    observed: Any = None
    low_res: Any = None


class Parts(NamedTuple):
    """One example: the networks' parameters by name, the label, the strength, and a key for methods that draw.

    labelled: whether labels were given; a guidance that needs none leaves the label out where they were not.
    clips_inside: whether every prediction of the network is clipped, before the guidance.
    bad: the run of --bad. operator, y: the measurement of this example. low_res: the picture that an upsampler starts
    from. estimate: the last predicted x_0, for a network with self-conditioning.
    """

    run: runs.Run
    request: Method
    params: Mapping[str, Any]
    label: Any = 0
    scale: Any = 1.0
    key: Any = None
    labelled: bool = True
    clips_inside: bool = False
    bad: runs.Run | None = None
    operator: Operator | None = None
    y: Any = None
    low_res: Any = None
    estimate: Any = None

    def model(self, label: Any, perturb: Any = None) -> Denoiser:
        """Return the run's denoiser for a label; perturb: another attention, as of `models.perturbation`."""
        return self._denoiser(self.run.raw(label), perturb)

    def _denoiser(self, raw: Any, perturb: Any = None) -> Denoiser:
        estimate = self.estimate if self.run.self_conditioning else None
        made = runs.make_denoiser(self.run, self.params["diffusion"], raw, perturb, self.low_res, estimate)
        return guidance.clip(made, -self.run.bound, self.run.bound) if self.clips_inside else made

    @property
    def conditional(self) -> Denoiser:
        """The model with the label."""
        return self.model(self.label)

    @property
    def unconditional(self) -> Denoiser:
        """The model with the null condition."""
        return self._denoiser(self.run.model.null)

    @property
    def base(self) -> Denoiser:
        """What a classifier guides: the model with the null condition, or with the label where it has none.

        With the label the scale counts from the conditional model.
        """
        return self.conditional if self.run.model.null is None else self.unconditional

    @property
    def _uses_label(self) -> bool:
        return self.labelled or self.run.model.null is None

    def plain(self, perturb: Any = None) -> Denoiser:
        """Return the model for a guidance that needs no label: with the label if labels were given, or there is no null."""
        return self._denoiser(self.run.raw(self.label) if self._uses_label else self.run.model.null, perturb)

    @property
    def bad_model(self) -> Denoiser:
        """The model of the run of --bad, with the condition of `plain`."""
        bad = self.bad
        assert bad is not None
        raw = bad.raw(self.label) if self._uses_label or bad.model.null is None else bad.model.null
        return runs.make_denoiser(
            bad, self.params["bad"], raw, estimate=self.estimate if bad.self_conditioning else None
        )

    @property
    def log_prob(self) -> LogProb:
        """log p(label | x_t) by the run's classifier, or of any of --any-of."""
        request, classifier = self.request, self.run.classifier
        assert classifier is not None
        wanted = jnp.asarray(request.any_of) if request.any_of else self.label
        inverse_temperature = 1 / request.temperature
        params = self.params["classifier"]
        return guidance.from_logits(
            lambda x, level: classifier(params, x, level),
            wanted,
            joint=inverse_temperature,
            marginal=inverse_temperature,
        )
