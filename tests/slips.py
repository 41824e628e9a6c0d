"""Mutation tests of the mathematics: deliberate slips, one at a time, each of which a test should notice.

    python -m tests.slips            # all of them, about twenty minutes on two cores
    python -m tests.slips rescale    # those whose file or text contains a word

Each slip is one textual change (a sign, a factor, an index, two levels swapped) to a copy of the package in a temporary
folder; the tests named beside it run there until the first failure. A slip that no test notices has survived.
"""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Slip(NamedTuple):
    """`old` becomes `new` in a file of the package; `tests` are files of tests/, without "test_", and what -k selects."""

    file: str
    old: str
    new: str
    tests: str
    only: str = ""


def path_of(test):
    """Return the file of a test, in whichever folder of tests/."""
    (found,) = (ROOT / "tests").glob(f"*/test_{test}.py")
    return found


def slips(file, tests, *changes, only=""):
    return [Slip(f"{file}.py", old, new, tests, only) for old, new in changes]


ALGEBRA = "what_scale or closed_forms"
SLIPS = (
    *slips(
        "schedule/tables",
        "schedule forward",
        ("np.cumprod(1 - betas)", "np.cumprod(1 - betas / 2)"),
        ("np.sqrt(1 - alpha_bar))", "1 - alpha_bar)"),
        ("stretch * 0.02", "stretch * 0.2"),
        ("num_steps + 0.008) / 1.008", "num_steps + 0.08) / 1.08"),
        ("1 - alpha_bar[1:] / alpha_bar[:-1]", "1 - alpha_bar[:-1] / alpha_bar[1:]"),
        (
            "low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)",
            "low, high = sigma_min ** rho, sigma_max ** rho",
        ),
        ("np.linspace(0, 1, num_steps) if", "np.linspace(0, 1, num_steps + 1)[:-1] if"),
    ),
    *slips("schedule/level", "schedule", ("return 2 * (jnp.log", "return (jnp.log")),
    *slips(
        "schedule/interpolation",
        "schedule",
        ("exp(xp.minimum(table[0] - log_snr, 0))", "exp(xp.minimum(log_snr - table[0], 0))"),
        ("xp.where(clean, small, large))", "xp.where(clean, large, small))"),
    ),
    *slips("schedule/spacing", "schedule", ("stride = (size - 1) / (count - 1)", "stride = size / count")),
    *slips(
        "forward",
        "forward reverse",
        ("return level.alpha * x_0 + level.sigma * eps", "return level.sigma * x_0 + level.alpha * eps"),
        ("return kept_share(level_t, level_s) * x_s", "return kept_share(level_s, level_t) * x_s"),
        ("root(step_beta(level_t, level_s)) * eps", "step_beta(level_t, level_s) * eps"),
        (
            "kept = jnp.square(ratio(then.sigma, now.sigma, at_zero=1.0))",
            "kept = ratio(then.sigma, now.sigma, at_zero=1.0)",
        ),
        ("return Normal(a * kept * x_t + then.alpha", "return Normal(a * kept * x_t + now.alpha"),
        ("beta * kept)", "beta)"),
        (
            "jnp.square(now.sigma) - jnp.square(kept_share(now, then) * then.sigma)",
            "1 - jnp.square(kept_share(now, then))",
        ),
        ("return ratio(now.alpha, then.alpha, at_zero=1.0)", "return ratio(then.alpha, now.alpha, at_zero=1.0)"),
    ),
    *slips(
        "prediction",
        "prediction analytic",
        (
            "ratio(x_t - level.sigma * output, level.alpha, at_zero=jnp.nan)",
            "ratio(x_t + level.sigma * output, level.alpha, at_zero=jnp.nan)",
        ),
        ("ratio(x_t - level.alpha * output, level.sigma)", "ratio(x_t - level.sigma * output, level.sigma)"),
        (
            "x_0 = ratio(level.alpha * x_t - level.sigma * output, power)",
            "x_0 = level.alpha * x_t - level.sigma * output",
        ),
        (
            "eps = ratio(level.sigma * x_t + level.alpha * output, power)",
            "eps = ratio(level.sigma * x_t - level.alpha * output, power)",
        ),
        ("from_eps(-level.sigma * output, x_t, level)", "from_eps(-jnp.square(level.sigma) * output, x_t, level)"),
        ("ratio(x_t + level.alpha * output, total)", "ratio(x_t + level.sigma * output, total)"),
        ("return -ratio(prediction.eps, level.sigma)", "return ratio(prediction.eps, level.sigma)"),
        (
            "return level.alpha * prediction.eps - level.sigma * prediction.x_0",
            "return level.sigma * prediction.eps - level.alpha * prediction.x_0",
        ),
        ("return prediction.eps - prediction.x_0", "return prediction.x_0 - prediction.eps"),
    ),
    *slips(
        "denoiser",
        "prediction contract reverse guidance_methods",
        ("return level.t - 1", "return level.t"),
        ("variance_fraction=(variance + 1) / 2", "variance_fraction=variance"),
        ("mean, variance = jnp.split", "variance, mean = jnp.split"),
        ("x_0 = (sigma_data / power) ** 2 * alpha * x_t", "x_0 = (sigma_data / power) * alpha * x_t"),
        ("- jnp.log(jnp.maximum(alpha, tiny))) / 4", "- jnp.log(jnp.maximum(alpha, tiny))) / 2"),
        ("prediction if x is x_t and at is level else", "prediction if x is x_t else"),
        ("prediction if x is x_t and at is level else", "prediction if at is level else"),
    ),
    *slips(
        "denoiser",
        "tree",
        ("jnp.split(leaf, 2, axis=-1)[half]", "jnp.split(leaf, 2, axis=-1)[1 - half]"),
        ("jnp.split(x, ends[:-1])", "jnp.split(x, ends[:-1])[::-1]"),
    ),
    *slips(
        "model",
        "conditions",
        ("jnp.where(known, raw, 0)", "raw"),
        ("known = ~jnp.isnan(raw)", "known = jnp.isnan(raw)"),
        only="numbers_and or drops",
    ),
    *slips(
        "guidance/shift",
        "guidance guidance_algebra guidance_methods",
        ("prediction.eps - level.sigma * gradient", "prediction.eps + level.sigma * gradient"),
        ("ratio(jnp.square(level.sigma), level.alpha) * gradient", "ratio(level.sigma, level.alpha) * gradient"),
        (
            "jnp.where(is_pure_noise(level), 0.0, gradient)",
            "jnp.where(level.sigma == 0, 0.0, gradient)",
        ),
        (
            "prediction.eps - ratio(level.alpha, level.sigma) * shift",
            "prediction.eps - ratio(level.sigma, level.alpha) * shift",
        ),
        (
            "eps=prediction.eps + weight * (towards.eps - away.eps)",
            "eps=prediction.eps + weight * (away.eps - towards.eps)",
        ),
    ),
    *slips(
        "forward",
        "guidance guidance_algebra guidance_methods",
        (
            "ratio(power * jnp.square(level.sigma), jnp.square(level.alpha) * power",
            "ratio(power * jnp.square(level.sigma), level.alpha * power",
        ),
        ("power = jnp.square(jnp.asarray(data_std))", "power = jnp.asarray(data_std)"),
        only="pure_noise or clean_example or (what_scale and x_0 and (classifier or shelf))",
    ),
    *slips("guidance/classifier", "guidance_algebra", ("strength(scale, level) * jax.grad", "jax.grad"), only=ALGEBRA),
    *slips(
        "guidance/classifier_free",
        "guidance_algebra",
        ("by_difference(u, c, u,", "by_difference(c, c, u,"),
        ("by_difference(u, c, u,", "by_difference(u, u, c,"),
        ("_replace(variance_fraction=c.variance_fraction)", "_replace(variance_fraction=u.variance_fraction)"),
        ("classifier_free(good, bad, scale)", "classifier_free(good, bad, 1 + scale)"),
        only=ALGEBRA,
    ),
    *slips(
        "guidance/composition",
        "guidance_algebra guidance_methods",
        ("by_difference(total, c, u,", "by_difference(u, c, u,"),
        ("variance_fraction=towards[0]", "variance_fraction=u"),
        ("towards(x_t, level), away(x_t, level), strength", "away(x_t, level), towards(x_t, level), strength"),
        only="compos or and_of or not_is or push",
    ),
    *slips(
        "guidance/rescale",
        "guidance_methods guidance_algebra",
        ("norm(c - jnp.mean(c)), norm(g - jnp.mean(g))", "norm(g - jnp.mean(g)), norm(c - jnp.mean(c))"),
        ("norm(c - jnp.mean(c)), norm(g - jnp.mean(g))", "norm(c), norm(g)"),
        ("mix * factor + 1 - mix", "mix + (1 - mix) * factor"),
        only="rescale",
    ),
    *slips(
        "guidance/interval",
        "guidance_algebra",
        ("low < sigma, sigma <= high", "low <= sigma, sigma < high"),
        ("sigma = noise_ratio(level)", "sigma = level.sigma"),
        (
            "jax.lax.cond(inside, lambda: _state_type(guided(x_t, level), plain), lambda: _state_type(plain, plain))",
            "jax.tree.map(lambda a, b: jnp.where(inside, a, b), guided(x_t, level), plain)",
        ),
        only="interval",
    ),
    *slips(
        "guidance/projected",
        "guidance_methods guidance_algebra stateful",
        ("c.x_0 - u.x_0 + momentum * before", "c.x_0 - u.x_0 - momentum * before"),
        ("jnp.maximum(1.0, norm(direction) / radius)", "jnp.minimum(1.0, norm(direction) / radius)"),
        ("jnp.sum(jnp.square(c.x_0))) * c.x_0", "norm(c.x_0)) * c.x_0"),
        ("limited - along + parallel * along", "limited + parallel * along"),
        ("by_x_0(c, shift, level), direction", "by_x_0(c, shift, level), limited"),
        ("jnp.asarray(strength(scale, level)) - 1", "jnp.asarray(strength(scale, level))"),
        only="projected or momentum",
    ),
    *slips(
        "guidance/cfg_plus_plus",
        "guidance_methods guidance_algebra",
        ("eps=u.eps", "eps=c.eps"),
        ("by_difference(u, c, u,", "by_difference(c, c, u,"),
        only="plus_plus or CFG",
    ),
    *slips(
        "guidance/zero_star",
        "guidance_methods guidance_algebra",
        ("ratio(jnp.sum(c * u), jnp.sum(jnp.square(u))) * u", "ratio(jnp.sum(c * u), jnp.sum(jnp.square(c))) * u"),
        ("level.t >= zero_from", "level.t <= zero_from"),
        ("level.t >= zero_from", "level.t > zero_from"),
        only="zero_star or CFG",
    ),
    *slips(
        "guidance/adaptive",
        "adaptive",
        ("jnp.minimum(cosine, 1.0) > threshold", "jnp.minimum(cosine, 1.0) >= threshold"),
        ("norm(c.x_0) * norm(u.x_0)", "jnp.square(norm(c.x_0))"),
        ("_of_all(jnp.all(flag, axis=0))", "_of_all(jnp.any(flag, axis=0))"),
        ("jnp.where(state.stopped, *views)", "jnp.where(state.stopped | above, *views)"),
        ("AdaptiveState(state.stopped | above,", "AdaptiveState(above,"),
        ("state.saved + skipped", "state.saved + state.stopped"),
        ("jax.lax.cond(skipped, lambda: _like(c, c), lambda", "jax.lax.cond(False, lambda: _like(c, c), lambda"),
    ),
    *slips(
        "guidance/frequency_decoupled",
        "frequencies",
        ("[strength - first for strength in coarser]", "coarser"),
        ("eps=u.eps + _weighted(c.eps - u.eps, strengths)", "eps=c.eps"),
        ("(side + 1) // 2", "side // 2 or 1"),
    ),
    *slips(
        "guidance/tangential",
        "damped",
        ("(c.eps - u.eps) * (c.eps + u.eps)", "(u.eps - c.eps) * (c.eps + u.eps)"),
        ("along = 2 * jnp.sum", "along = jnp.sum"),
        ("(1 - cos + sin) / 2", "(1 - cos - sin) / 2"),
        ("by_difference(damped, c, damped,", "by_difference(damped, c, u,"),
        ("ratio(across * u.eps, level.sigma)", "across * u.eps"),
        only="tangential",
    ),
    *slips(
        "guidance/magnitude_aware",
        "damped",
        ("norm(flow(u)))", "norm(flow(c)))"),
        ("norm(flow(c) - flow(u))", "norm(c.eps - u.eps)"),
        ("jnp.exp(-jnp.asarray(damping) * moved)", "jnp.exp(-jnp.asarray(damping) / moved)"),
        ("jnp.asarray(strength(scale, level)) - 1)", "jnp.asarray(strength(scale, level)))"),
        only="magnitude",
    ),
    *slips(
        "schedule/level",
        "guidance_methods guidance_algebra",
        ("jax.random.fold_in(key, step)", "key"),
        (
            "jax.lax.bitcast_convert_type(jnp.asarray(level.t, jnp.float32), jnp.uint32)",
            "jnp.asarray(level.t, jnp.uint32)",
        ),
        only="independent",
    ),
    *slips(
        "guidance/annealed",
        "annealed",
        ("jnp.sqrt(share) * wide", "share * wide"),
        ("jnp.sqrt(1 - share)", "(1 - share)"),
        ("(high - level.t / num_steps)", "(high - level.t)"),
        ("(jnp.asarray(high) - low), 0.0, 1.0)", "(jnp.asarray(high) - low))"),
        ("root(jnp.var(wide)), root(jnp.var(h))", "root(jnp.var(h)), root(jnp.var(wide))"),
        ("mix * like_y + (1 - mix) * h", "(1 - mix) * like_y + mix * h"),
        ("jax.random.split(fold_in(key, level), len(leaves))", "[fold_in(key, level)] * len(leaves)"),
    ),
    *slips(
        "criteria/clip",
        "criteria_clip",
        ("jnp.sum(w * _cosines", "jnp.sum(_cosines"),
        ("(x, level)) / temperature", "(x, level)) * temperature"),
        ("(x, level) / temperature  #", "(x, level) * temperature  #"),
        ("-2 * jnp.square(jnp.arctan2", "-jnp.square(jnp.arctan2"),
        ("norm(u - each), norm(u + each)", "norm(u + each), norm(u - each)"),
        ("v @ _unit(_embedding(embed_image, v)(x, level))", "v @ _embedding(embed_image, v)(x, level)"),
        ("jnp.stack([_unit(each) for each in v]), w", "v, w"),
    ),
    *slips(
        "criteria/cutouts",
        "cutouts",
        ("smallest + (1 - smallest) * n**power", "smallest + n**power"),
        ("n**power", "n * power"),
        ("-corner * scale", "-corner"),
        ("-corner * scale", "corner * scale"),
        ("(box.top, box.left)", "(box.left, box.top)"),
        ("fold_in(key, level), count", "key, count"),
        ("jnp.mean(jax.vmap(one)", "jnp.sum(jax.vmap(one)"),
    ),
    *slips(
        "losses/contrastive",
        "contrastive",
        ("caption[:, None] == captions[None]", "caption[:, None] != captions[None]"),
        ("jax.lax.axis_index(axis_name) * count", "jax.lax.axis_index(axis_name)"),
        ("_of_own(jax.nn.log_softmax(by_text), own)) / 2", "_of_own(jax.nn.log_softmax(by_image), own)) / 2"),
        ("jnp.where(same, -jnp.inf, here", "jnp.where(same, 0.0, here"),
    ),
    *slips(
        "guidance/ramp",
        "guidance_methods guidance_algebra",
        ("1 + (scale - 1) * _cleanness", "1 + scale * _cleanness"),
        (
            "jnp.cos(jnp.pi * _cleanness(level, num_steps) ** power)",
            "jnp.cos(jnp.pi * _cleanness(level, num_steps)) ** power",
        ),
        ("1 - level.t / num_steps", "level.t / num_steps"),
        only="ramp",
    ),
    *slips(
        "criteria/log_prob",
        "guidance_methods",
        ("jax.nn.logsumexp(joint * chosen)", "jax.nn.logsumexp(marginal * chosen)"),
        ("jax.nn.logsumexp(marginal * f)", "marginal * jax.nn.logsumexp(f)"),
        ("jax.nn.logsumexp(jnp.stack([one(x_t, level)", "jnp.sum(jnp.stack([one(x_t, level)"),
        ("weight * one(x_t, level)", "one(x_t, level)"),
        only="labels or temperatures or not_is",
    ),
    *slips(
        "guidance/off_the_shelf",
        "guidance_methods",
        ("posterior_variance(level, data_std) * gradient", "gradient"),
        ("jax.grad(log_prob)(prediction.x_0, level)", "jax.grad(log_prob)(x_t, level)"),
        ("strength(scale, level) * gradient, level", "gradient, level"),
        only="clean or shelf",
    ),
    *slips(
        "guidance/threshold",
        "guidance_methods guidance",
        (
            "jnp.maximum(jnp.quantile(jnp.abs(prediction.x_0), quantile), limit)",
            "jnp.minimum(jnp.quantile(jnp.abs(prediction.x_0), quantile), limit)",
        ),
        ("jnp.clip(prediction.x_0, -reach, reach) * (limit / reach)", "jnp.clip(prediction.x_0, -reach, reach)"),
        ("jnp.quantile(jnp.abs(prediction.x_0), quantile)", "jnp.quantile(prediction.x_0, quantile)"),
        ("eps=from_x_0(x_0, x_t, level).eps)\n\n    return clipped", ")\n\n    return clipped"),
        only="threshold or clip",
    ),
    *slips(
        "guidance/self_attention",
        "guidance_methods",
        ("second.x_0 + (first.x_0 - smooth)", "second.x_0"),
        ("denoise(diffuse(smooth, first.eps, level), level)", "denoise(smooth, level)"),
        only="self or blurred",
    ),
    *slips(
        "operators",
        "measurement",
        ("gain * jnp.square(weights) + noise", "gain * weights + noise"),
        ("gain / factor**2 + noise", "gain / factor + noise"),
        ("height * factor, width * factor, channels) / factor**2", "height * factor, width * factor, channels)"),
        ("gain * power + noise", "gain + noise * power"),
        ("gain * values + noise", "gain + noise * values"),
        ("lambda y: (y @ a)", "lambda y: (2 * y @ a)"),
        ("_apply(rows.T, columns.T, y)", "_apply(rows, columns, y)"),
        ('jnp.einsum("ij,kj->ik", matrix, matrix)', 'jnp.einsum("ji,jk->ik", matrix, matrix)'),
        only="operator or solve or adjoint or inverse or pigdm or blur",
    ),
    *slips("numerics", "measurement", ("jnp.exp(-distance / 2)", "jnp.exp(-distance)"), only="blur"),
    *slips(
        "guidance/measurement",
        "measurement",
        ("operator.solve(y - seen, variance, noise)", "operator.solve(y - seen, 1.0, noise)"),
        ("operator.solve(y - seen, variance, noise)", "operator.solve(seen - y, variance, noise)"),
        ("jnp.square(jnp.asarray(noise_std))", "jnp.asarray(noise_std)"),
        ("/ (2 * jnp.square(noise_std))", "/ jnp.square(noise_std)"),
        only="pigdm or likelihood",
    ),
    *slips(
        "operators",
        "through_decoder",
        ("jnp.asarray(weight) * gain, noise", "jnp.asarray(weight), noise"),
        ("operator.forward(decode(x))", "decode(operator.forward(x))"),
        only="through",
    ),
    *slips(
        "guidance/measurement",
        "through_decoder",
        ("jnp.where(jnp.asarray(observed) != 0, image,", "jnp.where(jnp.asarray(observed) == 0, image,"),
        ("encode(pasted) - prediction.x_0", "encode(pasted)"),
        ("encode(pasted) - prediction.x_0, level)", "pasted - prediction.x_0, level)"),
        only="past or painted",
    ),
    *slips(
        "guidance/mmps",
        "mmps",
        ("jnp.square(level.sigma), level.alpha)", "level.sigma, level.alpha)"),
        ("jnp.square(jnp.asarray(noise_std))", "jnp.asarray(noise_std)"),
        ("jnp.asarray(y - seen,", "jnp.asarray(seen - y,"),
        ("ratio(_dot(left, left), before)", "ratio(before, _dot(left, left))"),
        ("residual - step * image", "residual - image"),
        ("relative > FLAT * steepest", "curvature != 0"),
    ),
    *slips(
        "guidance/observe",
        "guidance_methods",
        ("score_of(prediction, level) - score", "score_of(prediction, level)"),
        ("lengths = norm(added) * norm(score)", "lengths = norm(added)"),
        ("prediction.x_0 if clean else x_t", "x_t if clean else prediction.x_0"),
        ("(prediction.x_0 <= low) | (prediction.x_0 >= high)", "(prediction.x_0 < low) | (prediction.x_0 > high)"),
        only="observ",
    ),
    *slips(
        "stateful",
        "stateful",
        (
            "guide(cached(prediction, x_t, level, frozen(stateful, state)))(x_t, level), updated",
            "guide(cached(prediction, x_t, level, frozen(stateful, state)))(x_t, level), state",
        ),
        (
            "stateful.denoise(stateful.init(x_t), x_t, level)[0]",
            "stateful.denoise(stateful.denoise(stateful.init(x_t), x_t, level)[1], x_t, level)[0]",
        ),
    ),
    *slips(
        "reverse/ancestral",
        "reverse guidance_algebra",
        (
            "strength(scale, now) * variance * jax.grad(log_prob)(x_t, now)",
            "strength(scale, now) * root(variance) * jax.grad(log_prob)(x_t, now)",
        ),
        ("jax.grad(log_prob)(mean, level)", "jax.grad(log_prob)(mean, now)"),
        ("jnp.where(is_clean(then), 0.0, root(var)) * noise", "root(var) * noise"),
        ("return x_s, jnp.asarray(small, x_t.dtype)", "return x_s, jnp.asarray(memory, x_t.dtype)"),
        ("low + prediction.variance_fraction * (high - low)", "high + prediction.variance_fraction * (low - high)"),
        (
            "borrowed(now, then, small, previous), step_beta(now, then))",
            "borrowed(now, then, small, previous), small)",
        ),
        (
            "jnp.where(previous > 0, previous, step_beta(now, then))",
            "jnp.where(previous > 0, step_beta(now, then), previous)",
        ),
    ),
    *slips(
        "reverse/implicit",
        "reverse guidance_algebra",
        (
            "return then.alpha * prediction.x_0 + then.sigma * prediction.eps, memory",
            "return then.alpha * prediction.x_0 + now.sigma * prediction.eps, memory",
        ),
        ("root(jnp.square(then.sigma) - jnp.square(std))", "root(jnp.square(then.sigma) - std)"),
        ("eta * root(posterior", "eta * (posterior"),
        ("+ direction * prediction.eps + std * noise", "+ then.sigma * prediction.eps + std * noise"),
    ),
    *slips(
        "reverse/off_the_shelf",
        "guidance_methods",
        ("variance + gamma * peak * jnp.sin", "gamma * peak * jnp.sin"),
        ("now.t / levels.t[-1]", "now.t"),
        ("jax.grad(log_prob)(prediction.x_0, now)", "jax.grad(log_prob)(x_t, now)"),
        ("jnp.max(_posterior", "jnp.mean(_posterior"),
        only="elucd",
    ),
    *slips(
        "reverse/training_free",
        "training_free",
        ("ratio(then.alpha, now.alpha) * power", "power"),
        ("* power * rho_t", "* rho_t"),
        ("prediction = _clip(prediction, x_t, now, clip)", "pass"),
        ("return jax.nn.logsumexp(each) -", "return jax.nn.logsumexp(each) / samples -"),
        ("return gradients[0], moved", "return gradients[-1], moved"),
        ("jnp.mean(law(_kept(noisy, below)))", "jnp.sum(law(_kept(noisy, below)))"),
        ("then, now)\n            return narrow_like", "now, now)\n            return narrow_like"),
        ("carry[0], memory", "x_t, memory"),
        ("ratio(level.sigma, root(power))", "level.alpha"),
        ("then.sigma * ratio(now.alpha, now.sigma)", "then.sigma"),
        ("x_0 + moved)", "x_0)"),
    ),
    *slips(
        "criteria/pictures",
        "criteria",
        (
            "(2 * jnp.square(error))\n\n    return log_prob\n\n\ndef colour",
            "(2 * error)\n\n    return log_prob\n\n\ndef colour",
        ),
        ("flat.T @ flat / len(flat)", "flat.T @ flat"),
        ("root(jnp.mean(jnp.square(picture - mean)", "(jnp.mean(jnp.square(picture - mean)"),
        ("channels).mean((1, 3))", "channels).max((1, 3))"),
    ),
    *slips(
        "reverse/measurement",
        "measurement",
        (
            "return norm(y - operator.forward(prediction.x_0)), prediction",
            "return jnp.square(norm(y - operator.forward(prediction.x_0))), prediction",
        ),
        ("return x_s - strength(scale, now) * gradient", "return x_s + strength(scale, now) * gradient"),
        (
            "diffuse(x_0, jax.random.normal(key_known, x.shape, x.dtype), then)",
            "diffuse(x_0, jax.random.normal(key_known, x.shape, x.dtype), now)",
        ),
        ("transition(x_s, jax.random.normal(key_back, x.shape, x.dtype), then, now)", "x_t"),
        (
            "observed + everywhere != 0, noised + everywhere, x_s",
            "observed + everywhere != 0, x_s, noised + everywhere",
        ),
        only="dps or repaint",
    ),
    *slips(
        "reverse/stateful",
        "stateful",
        ("narrow_like(updated, state))", "state)"),
        ("match_type(frozen(stateful, state))", "match_type(frozen(stateful, updated))"),
    ),
    *slips(
        "sampler",
        "sampler",
        ("at(levels, position), at(levels, position - 1)", "at(levels, position - 1), at(levels, position)"),
        ("jax.random.fold_in(key, position)\n", "key\n"),
        ("jnp.arange(len(levels.t) - 1, 0, -1)", "jnp.arange(len(levels.t) - 1, 1, -1)"),
        ("jnp.arange(len(levels.t) - 1, 0, -1)", "jnp.arange(1, len(levels.t))"),
    ),
    *slips(
        "sampler",
        "guidance_algebra",
        ("cached(prediction, x_t, now, denoise)", "cached(prediction, x_t, then, denoise)"),
        only="diagnostics",
    ),
    *slips(
        "schedule/tables",
        "grid",
        ("(s[-1] - s) / (s[-1] - s[0])", "(s[-1] - s)"),
        ("alpha[1] * (alpha[1:] - alpha[-1]) / (alpha[1]", "(alpha[1:] - alpha[-1]) / (alpha[1]"),
    ),
    *slips(
        "schedule/interpolation",
        "grid",
        ("> 1.001 * SMALLEST", "> 0"),
        ("kind * small * (1 + small)", "kind * small"),
        ("(c[far] - c[0]) * (1 - c[0])", "(c[far] - c[0])"),
    ),
    *slips(
        "grid",
        "grid",
        ("xp.sqrt(last), num_steps)[::-1] ** 2", "xp.sqrt(last), num_steps)[::-1]"),
        ("lambda ratio: ratio ** (1 / rho)", "lambda ratio: ratio**rho"),
        ("wanted = -2 * xp.log(_ratios(levels))", "wanted = -xp.log(_ratios(levels))"),
        ("xp.where(pure, kept, ", "xp.where(False, kept, "),
        ("spread(ratios[-2:][0], num_steps - 1)", "spread(ratios[-1], num_steps - 1)"),
        ("last = xp.minimum(sigma_max, end)", "last = end"),
    ),
    *slips(
        "reverse/multistep",
        "steppers",
        ("1 - j * ratio(exact[-1], h)", "1 - ratio(exact[-1], h)"),
        ("(-1) ** n * math.factorial(j)", "math.factorial(j)"),
        ("up - nodes[j] * same", "up + nodes[j] * same"),
        ("[jnp.clip(count, 1, n) - 1]", "[n - 1 + 0 * count]"),
        ("return log_snr_of(level) / 2", "return log_snr_of(level)"),
        ("jnp.asarray(1 / (j + 1))", "jnp.asarray(1 / (j + 2))"),
        ("[value.astype(history.values.dtype)[None], history.values])[:-1]", "[history.values, value[None]])[1:]"),
        only="order_is or moments or whatever_the_memory",
    ),
    *slips(
        "reverse/dpm",
        "steppers",
        ("[exact[0], exact[0] / 2]", "[exact[0], exact[0]]"),
        ("jnp.array([0.0, 1.0], way", "jnp.array([0.0, 2.0], way"),
        ("half_log_snr(now) + half_log_snr(then))", "(half_log_snr(now) + half_log_snr(then)) / 2)"),
        ("first & ~is_clean(then)", "first & is_clean(then)"),
        ("whole.gain * -jnp.expm1(-whole.H) * denoise", "whole.gain * -jnp.expm1(-whole.h / 2) * denoise"),
        only="order_is and dpm",
    ),
    *slips(
        "reverse/dpm",
        "steppers",
        ("jnp.exp(-noise)", "jnp.exp(noise)"),
        ("root(-jnp.expm1(-2 * noise))", "root(-jnp.expm1(-noise))"),
        ("std, h, h + noise)", "std, h, h)"),
        ("second.kept * first.std * noise", "first.std * noise"),
        ("second.std * more", "second.std * noise"),
        ("jnp.where(is_clean(then), x_0, target)", "target"),
        only="(closed_form and dpm) or (finite and dpm) or two_noises",
    ),
    *slips(
        "reverse/unipc",
        "steppers",
        ("jnp.ones(1, nodes.dtype)", "jnp.zeros(1, nodes.dtype)"),
        ("way.kept * memory.x", "memory.x"),
        ("memory.level, order)) + 1", "memory.level, order))"),
        ("leg(memory.level, now)", "leg(now, memory.level)"),
        ("memory.history.made > 0, correction, 0.0)", "memory.history.made > 0, 0.0, 0.0)"),
        ("Memory(history, x_t, level, x_s)", "Memory(history, x_s, level, x_s)"),
        only="order_is and unipc",
    ),
    *slips(
        "reverse/deis",
        "steppers",
        ("0.0, mean - eps)", "0.0, eps - mean)"),
        ("ddim + then.alpha * stretch", "ddim + stretch"),
        ("_rho(then) - _rho(now)", "_rho(now) - _rho(then)"),
        ("denoise(x_s, then).x_0", "denoise(x_s, now).x_0"),
        only="(order_is and deis) or first_step",
    ),
    *slips(
        "reverse/plms",
        "schedulers",
        ("- outputs[0]) / 2", "- outputs[0])"),
        ("(23 / 12, -16 / 12, 5 / 12, 0)", "(18 / 12, -6 / 12, 0, 0)"),
        ("Memory(outputs, memory.made + 1)", "Memory(outputs, memory.made + 2)"),
        ("output(denoise(x_s, then), then)", "output(denoise(x_s, then), now)"),
        only="recorded_one and pndm",
    ),
    *slips(
        "pretrained/published/schedulers",
        "schedulers",
        ("num_steps + more) * (total // (num_steps + more))", "num_steps + more) * (total // num_steps)"),
        ("rows if name in IN_SIGMA else np.round(rows)", "np.round(rows)"),
        ("before = rows - (len(table.t) - 1) // num_steps", "before = np.append(rows[1:], -1)"),
        ("0 if clean else 1)", "0)"),
        ("if solver else (visited[0], visited[-1])", "if not solver else (visited[0], visited[-1])"),
        ("np.round(rows) if solver else rows", "rows"),
        ("np.linspace(1.0, shifted(1 / total), num_steps)", "np.linspace(1.0, 1 / total, num_steps)"),
        ("PURE_NOISE, np.sqrt(1 - PURE_NOISE**2)", "1e-6, 1.0"),
    ),
    *slips(
        "pretrained/published/steps",
        "schedulers",
        ("and num_steps < SHORT", "and num_steps > SHORT"),
        ("place = jnp.argmin(jnp.abs(steps.now.t - now.t))", "place = jnp.argmin(jnp.abs(steps.then.t - then.t))"),
        ("reverse.deis(4, as_published=True)", "reverse.deis(3, as_published=True)"),
    ),
    *slips(
        "reverse/heun",
        "steppers",
        ("- prediction.eps) / 2", "- prediction.eps)"),
        ("then.sigma - then.alpha * ratio(", "then.sigma - ratio("),
        ("jnp.sqrt(2.0) - 1", "jnp.sqrt(2.0) - 1.3"),
        ("rho, 1.0) * (1 + gamma)", "rho, 1.0) * gamma"),
        ("inflate * added", "added"),
        ("jnp.square(up.sigma) - jnp.square(kept * now.sigma)", "jnp.square(up.sigma) - jnp.square(now.sigma) / 2"),
        ("(low <= rho) & (rho <= high)", "(low <= rho)"),
        only="heun",
    ),
    *slips(
        "reverse/langevin",
        "steppers",
        ("jnp.sqrt(2 * e)", "jnp.sqrt(e)"),
        ("x + e * score", "x - e * score"),
        ("* jnp.square(now.sigma)", "* now.sigma"),
        ("to = then if place == len(steps) - 1 else now", "to = then"),
        ("jax.random.fold_in(key, place)", "key"),
        ("is_clean(then), lambda x: denoise(x, now).x_0", "is_clean(then), lambda x: x"),
        only="langevin or chain or corrector",
    ),
    *slips(
        "reverse/sde",
        "steppers",
        ("(1 + jnp.square(eta)) / 2", "1.0"),
        ("(2 - kept_share(now, then)) * x_t", "x_t"),
        ("eta * root(beta)", "eta * beta"),
        only="reverse-sde",
    ),
    *slips(
        "reverse/optimal",
        "steppers",
        ("jnp.square(share) * jnp.asarray", "share * jnp.asarray"),
        ("return small + ", "return "),
        ("ratio(then.alpha * step_beta", "ratio(now.alpha * step_beta"),
        ("jnp.square(x_0 - predicted)", "jnp.abs(x_0 - predicted)"),
        only="optimal or spread",
    ),
    *slips(
        "likelihood",
        "likelihood",
        ("* prediction.eps - jnp.sin(angle)", "* prediction.eps + jnp.sin(angle)"),
        ("(d1 + 2 * d2 + 2 * d3 + d4)", "(d1 + d2 + d3 + d4)"),
        ("return prior + gained", "return prior - gained"),
        ("- x.size * jnp.log(scale)", "+ x.size * jnp.log(scale)"),
        ("jnp.square(jnp.sin(angles[-1]))", "jnp.sin(angles[-1]) / 2"),
        ("(first.variance + gap) / second.variance - 1", "(first.variance + gap) / first.variance - 1"),
        ("0.044715 * x**3", "0.44715 * x**3"),
        ("(size * math.log(2))", "math.log(2)"),
        ("x_0 > 0.999, 1 - below", "x_0 > 0.999, below"),
        ("last, -(discretized if decoder is None else decoder)(x_0, model), kl", "last, kl, kl"),
        ("posterior(x_t, x_0, now, then)", "posterior(x_t, prediction.x_0, now, then)"),
        ("h / 2 * k2, start + h / 2", "h / 2 * k2, start + h"),
    ),
    *slips(
        "sampler",
        "steppers",
        ("at(levels, position), at(levels, position + 1)", "at(levels, position + 1), at(levels, position)"),
        ("jnp.arange(1, len(levels.t) - 1))[0][0]", "jnp.arange(1, len(levels.t) - 2))[0][0]"),
        only="encoded and (ddim or 2m) or encoding",
    ),
    *slips(
        "analytic",
        "analytic",
        ("level.alpha * mixture.gain * mixture.offsets", "mixture.gain * mixture.offsets"),
        ("ratio(level.sigma, mixture.variances)", "ratio(1.0, mixture.variances)"),
        ("/ variances - log_widths / 2", "/ variances - log_widths"),
        (
            "jax.nn.logsumexp(jnp.where(member, logits, -jnp.inf)) - jax.nn.logsumexp(logits)",
            "jax.nn.logsumexp(jnp.where(member, logits, -jnp.inf))",
        ),
        ("root(axes.powers[k])[None] * noise", "axes.powers[k][None] * noise"),
        ('jnp.einsum("kde,kd->ke", self.axes', 'jnp.einsum("kde,ke->kd", self.axes'),
        ('jnp.einsum("kde,ke->kd", self.axes', 'jnp.einsum("kde,kd->ke", self.axes'),
        ("axes.turn(means - centre), axes.turn(x", "means - centre, axes.turn(x"),
        ("axes.of_one(k).back(", "axes.of_one(k).turn("),
        ("+ found.log_evidence)\n        return self._replace", ")\n        return self._replace"),
        ("means = found.means + jnp", "means = found.means - jnp"),
        ("noise * jnp.eye(len(a)", "jnp.eye(len(a)"),
        ("kept @ covariance @ kept.T + noise * gain @ gain.T", "kept @ covariance @ kept.T"),
        ("kept @ covariance @ kept.T + noise", "kept @ covariance + noise"),
        ("len(a) * LOG_TWO_PI", "LOG_TWO_PI"),
        ("log_width = 2 * jnp.sum", "log_width = jnp.sum"),
        ("seen - a @ mean", "seen + a @ mean"),
    ),
    *slips(
        "losses/denoising",
        "losses",
        ("jax.random.randint(key, (), 1, num_steps + 1)", "jax.random.randint(key, (), 0, num_steps + 1)"),
        ("jax.random.randint(key, (), 1, num_steps + 1)", "jax.random.randint(key, (), 1, num_steps)"),
        ('"eps": lambda truth, level: truth.eps', '"eps": lambda truth, level: -truth.eps'),
        ("return -of_label", "return of_label"),
        ("jnp.mean(jnp.square(error)", "jnp.sum(jnp.square(error)"),
        ("truth.eps - truth.x_0", "truth.x_0 - truth.eps"),
        ("level.sigma * plain if", "plain if"),
        ("jax.random.bernoulli(_streams(key)[3], rate)", "jax.random.bernoulli(_streams(key)[3], 1 - rate)"),
        ("jax.random.bernoulli(_streams(key)[3], rate)", "jax.random.bernoulli(_streams(key)[0], rate)"),
    ),
    *slips(
        "losses/denoising",
        "self_conditioning",
        ("jnp.where(mask, jnp.clip(x_0, -1.0, 1.0), 0.0)", "jnp.where(mask, x_0, 0.0)"),
        ("jnp.where(mask, jnp.clip(x_0, -1.0, 1.0), 0.0)", "jnp.clip(x_0, -1.0, 1.0)"),
        ("return jax.lax.stop_gradient(", "return ("),
        ("jax.random.bernoulli(_streams(key)[4], rate)", "jax.random.bernoulli(_streams(key)[3], rate)"),
    ),
    *slips(
        "losses/denoising",
        "weighting",
        ("weight(noisy.level) * found.mse + found.bits", "weight(noisy.level) * found.total"),
        ("else weight(noisy.level) * each", "else each"),
    ),
    *slips(
        "losses/weighting",
        "weighting",
        ("jnp.minimum(log_snr, jnp.log(gamma))", "jnp.maximum(log_snr, jnp.log(gamma))"),
        ("jnp.minimum(log_snr, jnp.log(gamma))", "jnp.minimum(log_snr, gamma)"),
        ("log_snr - gamma * jnp.logaddexp(log_snr, jnp.log(k))", "-gamma * jnp.logaddexp(log_snr, jnp.log(k))"),
        ("jnp.logaddexp(log_snr, jnp.log(k))", "jnp.logaddexp(log_snr, k)"),
        ("bias + jax.nn.log_sigmoid(log_snr - bias)", "jax.nn.log_sigmoid(log_snr - bias)"),
        ("bias + jax.nn.log_sigmoid(log_snr - bias)", "bias + jax.nn.log_sigmoid(bias - log_snr)"),
        ("jnp.logaddexp(log_snr, -2 * jnp.log(sigma_data))", "jnp.logaddexp(log_snr, -jnp.log(sigma_data))"),
        ('"eps": lambda level: -log_snr_of(level)', '"eps": lambda level: log_snr_of(level)'),
        ("_positive(level.sigma) / _power(level)", "_positive(level.alpha) / _power(level)"),
        ("_positive(level.sigma) / _power(level)", "_positive(level.sigma)"),
        ("/ (level.alpha + level.sigma)", "/ (level.alpha - level.sigma)"),
        (
            "jnp.minimum(log_weight(log_snr_of(level)) + LOG_FACTORS[target](level), MOST)",
            "log_weight(log_snr_of(level))",
        ),
        ("slope = -t[-1] / 2", "slope = -t[-1]"),
        ("finite = alpha > 0", "finite = alpha >= 0"),
    ),
    *slips(
        "losses/times",
        "times",
        ("jax.nn.sigmoid(mean + std * ", "jax.nn.sigmoid(mean - std * "),
        ("mean + std * jax.scipy.special.ndtri(u)", "mean + jax.scipy.special.ndtri(u)"),
        ("mean + std * jax.scipy.special.ndtri(u)", "std * jax.scipy.special.ndtri(u)"),
        ("return (part + u) / parts", "return part / parts"),
        ("return (part + u) / parts", "return (part + u) / (parts + 1)"),
        ("1 + jnp.floor(share * num_steps)", "jnp.floor(share * num_steps)"),
        (".astype(jnp.int32), 1, num_steps)", ".astype(jnp.int32), 1, num_steps + 1)"),
    ),
    *slips(
        "training/averaging",
        "averaging",
        ("np.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)", "np.sqrt((gamma + 1) / (gamma + 2)) / (gamma + 3)"),
        ("[1, 7, 16 - square, 12 - square]", "[1, 7, 16 - square, 12 + square]"),
        ("jnp.expm1((gamma + 1) * jnp.log1p(-1 / step))", "jnp.expm1(gamma * jnp.log1p(-1 / step))"),
        ("after, step = optax.apply_updates(params, updates)", "after, step = params"),
        ("state.step + 1\n", "state.step\n"),
        ("c = np.maximum(at, bt), np.where(at < bt, b, a)", "c = np.maximum(at, bt), np.where(at < bt, a, b)"),
        ("(a + 1) * (b + 1) / (a + b + 1)", "(a + 1) * (b + 1) / (a + b + 2)"),
        ("return weights / weights.sum()", "return weights"),
    ),
    *slips(
        "metrics/frechet",
        "metrics",
        ("self.scatter / (self.size - 1)", "self.scatter / self.size"),
        ("apart * (other.size / size)", "apart * (one.size / size)"),
        ("(one.size * other.size / size)", "(other.size / size)"),
        ("one.scatter + other.scatter + between", "one.scatter + other.scatter"),
        ("- 2 * overlap", "- overlap"),
        ("root @ other_covariance @ root", "root @ other_covariance"),
        ("(vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T", "(vectors * np.maximum(values, 0)) @ vectors.T"),
        ("np.polyfit(1 / numbers, found, 1)[1]", "np.polyfit(numbers, found, 1)[1]"),
        ("np.polyfit(1 / numbers, found, 1)[1]", "np.polyfit(1 / numbers, found, 1)[0]"),
    ),
    *slips(
        "metrics/kernel",
        "metrics",
        ("x.shape[1] + 1) ** 3", "x.shape[1] + 1) ** 2"),
        ("(x @ y.T / x.shape[1] + 1)", "(x @ y.T + 1)"),
        ("- 2 * kernel(x, y).mean()", "- kernel(x, y).mean()"),
        ("(gram.sum() - np.trace(gram)) / (count * (count - 1))", "gram.mean()"),
        ("subset_size, replace=False", "subset_size, replace=True"),
    ),
    *slips(
        "metrics/neighbours",
        "metrics",
        ("np.partition(distances, k, axis=1)[:, k]", "np.partition(distances, k - 1, axis=1)[:, k - 1]"),
        ("inside.append((distances <= of_reference).any(1))", "inside.append((distances < of_reference).any(1))"),
        ("reached[rows] = (distances <= of_samples)", "reached[rows] = (distances <= of_samples[0])"),
        ("float(within / (k * len(samples)))", "float(within / len(samples))"),
        ("covered |= inside.any(0)", "covered |= inside.all(0)"),
        ("- 2 * (part @ columns.T)", "- (part @ columns.T)"),
    ),
    *slips(
        "metrics/classes",
        "metrics",
        ("out=np.ones_like(part)", "out=np.zeros_like(part)"),
        ("(part * np.log(ratio)).sum(1).mean()", "(part * np.log(ratio)).mean(1).mean()"),
        ("part.mean(0, keepdims=True)", "part.mean(1, keepdims=True)"),
        ("np.exp(_divergence(part))", "_divergence(part)"),
    ),
    *slips(
        "metrics/alignment",
        "alignment",
        ("np.maximum((u * v).sum(1), 0)", "(u * v).sum(1)"),
        ("/ (len(v) - 1))", "/ len(v))"),
        ("(ahead > EQUAL).sum(1)", "(ahead > -EQUAL).sum(1)"),
        ("(each - nearer) / equal", "each - nearer"),
        ("chance * (1 - chance) / len(u)", "chance / len(u)"),
        ("values.std(ddof=1)", "values.std()"),
        ("return features / norms[:, None]", "return features"),
    ),
    *slips(
        "metrics/clip",
        "clip_command",
        (
            "np.unique(np.asarray(tokenize(list(texts))), axis=0, return_inverse=True)",
            "np.asarray(tokenize(list(texts))), np.arange(len(texts))[::-1]",
        ),
        ("mean, std)\n", "std, mean)\n"),
        only="recorded",
    ),
    *slips(
        "models/clip/pixels",
        "clip",
        ("jnp.clip(jnp.floor(x + 0.5), 0, 255)", "jnp.floor(x + 0.5)"),
        ("jnp.clip(jnp.floor(x + 0.5), 0, 255)", "jnp.clip(x, 0, 255)"),
        only="pillow",
    ),
    *slips("metrics/summary", "metrics", ("found.std(ddof=1)", "found.std()")),
    *slips(
        "metrics/evaluation",
        "metrics_command",
        (
            "spatial.mean, spatial.covariance, *statistics.spatial",
            "samples.moments.mean, samples.moments.covariance, *target",
        ),
        only="spatial",
    ),
    *slips(
        "metrics/inception",
        "inception",
        ("x = (x - 128) / 128", "x = (x - 127.5) / 128"),
        ("else x / 127.5 - 1", "else x / 128 - 1"),
        ('half_pixel=preprocessing == "pytorch-fid"', "half_pixel=True"),
        ("(size / side) - 0.5 * half_pixel", "(size / side)"),
        ("] += place - low", "] = place - low"),
    ),
    *slips(
        "metrics/dino",
        "dino",
        ("antialias=True", "antialias=False"),
        ("(x / 255 - along_last", "(x / 256 - along_last"),
        ("found.pooled)", "found.patches.mean((0, 1)))"),
    ),
    *slips(
        "models/ops/bicubic",
        "dino",
        ("(number + offset)", "number"),
        ("+ 0.5) * step - 0.5", ") * step"),
        ("max(step, 1.0), -0.5)", "max(step, 1.0), -0.75)"),
        ("/ max(step, 1.0)", "/ step"),
        ("weights / weights.sum(1, keepdims=True)", "weights"),
        ("taps - places, -0.75)", "taps - places, -0.5)"),
    ),
    *slips(
        "models/vision_transformer",
        "dino",
        ("+ table[:, :1]", ""),
        ("approximate=False", "approximate=True"),
        ("1 + self.num_registers :", "1:"),
    ),
    *slips(
        "guidance/self_conditioning",
        "self_conditioning",
        ("jnp.clip(prediction.x_0, low, high)", "prediction.x_0"),
        ("zeros = jnp.zeros_like(x_T)", "zeros = x_T"),
        ("conditioned(estimate).denoise(own, x_t, level)", "conditioned(estimate * 0).denoise(own, x_t, level)"),
        (".astype(estimate.dtype), own)", ".astype(estimate.dtype), state[1])"),
    ),
)

# Slips without an observable effect, with the reason.
EXPECTED_TO_SURVIVE: dict[str, str] = {
    "jax.random.bernoulli(_streams(key)[0], rate)": "randint splits its key: level and drop stay independent",
}


def survives(slip):
    """Return whether the tests of a slip pass with it."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("guided_jax", "tests"):
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        path = Path(folder) / "guided_jax" / slip.file
        text = path.read_text()
        path.write_text(text.replace(slip.old, slip.new, 1))
        files = [str(path_of(name).relative_to(ROOT)) for name in slip.tests.split()]
        only = ["-k", slip.only] if slip.only else []
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            *only,
            *files,
        ]
        done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": folder}, capture_output=True)
        if done.returncode not in (0, 1):  # pytest did not run the tests
            raise ValueError(f"{slip.file}: pytest said {done.returncode}: {done.stdout.decode()[-500:]}")
        return done.returncode == 0


def main(words, workers=2):
    """Run the slips whose file or text contains all the words, print each result; return (number killed, survivors)."""
    chosen = [slip for slip in SLIPS if all(word in " ".join(slip) for word in words)]
    survivors = []
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for slip, alive in zip(chosen, pool.map(survives, chosen), strict=True):
            if alive:
                survivors.append(slip)
            print("SURVIVED" if alive else "killed  ", slip.file, "|", slip.new.replace("\n", " "), flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} slips killed")
    return len(chosen) - len(survivors), survivors


if __name__ == "__main__":
    main(sys.argv[1:])
