"""The memory of a multistep solver, and the exact integral of the polynomial through it.

With rho = sigma / alpha and lambda = -log rho, the probability flow of x_t / alpha_t is d / d rho = eps. Its solution
over a step is an integral of eps, or of x_0 against e^lambda; a multistep method replaces the integrand by the
polynomial through the last few predictions and integrates that exactly. Here places are lambda or rho, and the step is
[0, 1]:

    mix_i = int_0^1 kernel(u) prod_{j != i} (u - u_j) / (u_i - u_j) du

Sources: [DPM++] Lu et al. 2211.01095, [DEIS] Zhang & Chen 2204.13902, [UniPC] Zhao et al. 2302.04867.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from guided_jax.numerics import ratio
from guided_jax.schedule import NoiseLevel, levels_like, log_snr_of

ORDERS = (1, 2, 3)


class History(NamedTuple):
    """The predictions at the last n places, the newest first. Unused places lie far off and have no weight."""

    values: Array  # (n, *shape)
    places: Array  # (n,)
    made: Array  # the number of steps so far


def empty(x_T: Float[Array, "*shape"], size: int) -> History:
    """Return the history of a run before its first step, for `size` predictions.

    Made from x_T, not from its shape: under `shard_map` and on an explicit mesh it is placed as x_T is.
    """
    far = 1e3 * (1 + jnp.arange(size, dtype=x_T.dtype))
    return History(jnp.stack([jnp.zeros_like(x_T)] * size), far, jnp.zeros((), jnp.int32))


def remember(history: History, value: Float[Array, "*shape"], place: Float[Array, ""]) -> History:
    """Return the history with a value and its place put first, and without the oldest."""
    values = jnp.concatenate([value.astype(history.values.dtype)[None], history.values])[:-1]
    places = jnp.append(jnp.asarray(place, history.places.dtype), history.places)[:-1]
    return History(values, places, history.made + 1)


def nodes_of(places: Float[Array, " n"], now: Float[Array, ""], h: Float[Array, ""]) -> Float[Array, " n"]:
    """(places - now) / h: the places in units of the step, 0 where it starts, 1 where it ends."""
    return ratio(places - now, h)


def mix(
    values: Float[Array, "n *shape"],
    nodes: Float[Array, " n"],
    moments: Callable[[int], list[Array]],
    count: Int[ArrayLike, ""],
) -> Float[Array, "*shape"]:
    """The integral of the polynomial through the first min(count, n) values, at the nodes, in units of the step.

    moments: size -> int_0^1 kernel(u) u^j du for j = 0 .. size - 1, of the polynomial through that many values.
    count: the number of predictions so far, traced.
    """
    n = len(values)
    rows = [jnp.pad(jnp.stack(weights(nodes[:size], moments(size))), (0, n - size)) for size in range(1, n + 1)]
    chosen = jnp.stack(rows)[jnp.clip(count, 1, n) - 1]
    return jnp.tensordot(chosen, values, 1)


def weights(nodes: Float[Array, " n"], moments: list[Array]) -> list[Array]:
    """int_0^1 kernel(u) prod_{j != i} (u - u_j) / (u_i - u_j) du for each i, from the coefficients of the polynomials.

    nodes: u_i, (n,).
    moments: int_0^1 kernel(u) u^j du, at least n.
    """
    found, zero = [], jnp.zeros((), nodes.dtype)
    for i in range(len(nodes)):
        polynomial = [jnp.ones((), nodes.dtype)]  # ascending powers of u
        for j in range(len(nodes)):
            if j != i:
                scale = ratio(1.0, nodes[i] - nodes[j])
                shifted = [zero, *polynomial]
                polynomial = [
                    scale * (up - nodes[j] * same) for up, same in zip(shifted, [*polynomial, zero], strict=True)
                ]
        found.append(sum((c * m for c, m in zip(polynomial, moments, strict=False)), start=zero))
    return found


def exponential_moments(h: Float[Array, ""], count: int) -> list[Array]:
    """int_0^1 h e^(-h (1 - u)) u^j du for j < count: m_0 = 1 - e^-h, then m_j = 1 - j / h m_(j - 1)."""
    exact = [-jnp.expm1(-h)]
    for j in range(1, count):
        exact.append(1 - j * ratio(exact[-1], h))
    # Where h is small that difference loses its digits; there the series h sum_n (-h)^n j! / (j + n + 1)! is used.
    return [jnp.where(jnp.abs(h) < 1, _series(jnp.clip(h, -1, 1), j), value) for j, value in enumerate(exact)]


def _series(h: Array, j: int) -> Array:
    terms = [(-1) ** n * math.factorial(j) / math.factorial(j + n + 1) for n in range(11)]
    return h * jnp.polyval(jnp.asarray(terms[::-1], h.dtype), h)


def flat_moments(count: int) -> list[Array]:
    """int_0^1 u^j du = 1 / (j + 1) for j < count."""
    return [jnp.asarray(1 / (j + 1)) for j in range(count)]


def half_log_snr(level: NoiseLevel) -> Float[Array, ""]:
    """lambda = log(alpha / sigma) of a level, finite at both ends."""
    return log_snr_of(level) / 2


def steps_left(run: NoiseLevel | None, now: NoiseLevel, many: int) -> Int[ArrayLike, ""]:
    """Return the number of steps from `now` to the end of a run, at least 1; `many` where its levels are not given."""
    if run is None:
        return many
    below, here = (log_snr_of(levels_like(levels, jnp.float32)) for levels in (run, now))
    return jnp.maximum(jnp.sum(below > here), 1)


def check_order(order: int, orders: tuple[int, ...] = ORDERS) -> None:
    """Raise ValueError for an order that is not one of `orders`."""
    if order not in orders:
        raise ValueError(f"order {order} is not one of {orders}; take 2 for guided sampling, 3 for unguided")


def check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    """Raise ValueError if the value of the argument `name` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; give one of {', '.join(map(repr, choices))}")
