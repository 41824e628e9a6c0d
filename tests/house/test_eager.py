"""What `tests/eager.py` computes in NumPy has the bits that XLA gives it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests import eager

RNG = np.random.default_rng(0)
SPECIAL = np.float32([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan, 3e38, 1e-30, 2**24 + 1, 0.1, 7.0])
X = jnp.asarray(np.concatenate([SPECIAL, RNG.normal(size=12).astype(np.float32)]).reshape(4, 6))
Y = jnp.asarray(np.concatenate([SPECIAL[::-1], RNG.normal(size=12).astype(np.float32)]).reshape(4, 6))
N = jnp.asarray(RNG.integers(-9, 9, (4, 6)), jnp.int32)
PROGRAMS = {
    "add": lambda: X + Y,
    "add a number": lambda: X + 1,
    "sub": lambda: X - Y,
    "mul": lambda: X * Y,
    "mul integers": lambda: N * 2**30,
    "div": lambda: X / Y,
    "sqrt": lambda: jnp.sqrt(X),
    "square": lambda: jnp.square(X),
    "integer_pow": lambda: lax.integer_pow(X, 2),
    "max": lambda: jnp.maximum(X, jnp.flip(Y)),
    "min": lambda: jnp.minimum(X, jnp.flip(Y)),
    "neg": lambda: -X,
    "abs": lambda: jnp.abs(X),
    "is_finite": lambda: lax.is_finite(X),
    "eq": lambda: X == Y,
    "ne": lambda: X != Y,
    "lt": lambda: X < Y,
    "le": lambda: X <= Y,
    "gt": lambda: X > Y,
    "ge": lambda: X >= Y,
    "and": lambda: lax.bitwise_and(N, N + 1),
    "or": lambda: (X > 0) | (Y > 0),
    "not": lambda: ~(X > 0),
    "select_n": lambda: lax.select(X > Y, X, Y),
    "where": lambda: jnp.where(X > Y, X, 0.5),
    "reduce_max": lambda: X[0].max(),
    "reduce_min": lambda: N.min(1),
    "reduce_and": lambda: (N > -9).all(),
    "reduce_or": lambda: (N > 8).any(0),
    "broadcast_in_dim": lambda: jnp.broadcast_to(X[:, None], (4, 3, 6)),
    "reshape": lambda: X.reshape(2, 12),
    "squeeze": lambda: X[None].squeeze(0),
    "slice": lambda: lax.slice(X, (1, 0), (4, 5), (2, 3)),
    "dynamic_slice": lambda: lax.dynamic_slice(X, (jnp.int32(3), jnp.int32(-7)), (2, 2)),
    "transpose": lambda: X.T,
    "rev": lambda: lax.rev(X, (0, 1)),
    "concatenate": lambda: jnp.concatenate([X, Y], 1),
    "copy": lambda: jnp.copy(X),
    "convert_element_type": lambda: N.astype(jnp.float32),
    "truncation": lambda: jnp.nan_to_num(X[1, 3:]).astype(jnp.int32),
    "pad": lambda: jnp.pad(X, ((1, 0), (0, 2))),
    "iota": lambda: lax.broadcasted_iota(jnp.int32, (3, 4), 1),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_numpy_and_xla_give_the_same_bits(name, monkeypatch):
    jax.clear_caches()
    ours, counted = eager._call, []
    monkeypatch.setattr(eager, "_call", lambda *given: counted.append(1) or ours(*given))
    found = PROGRAMS[name]()
    assert counted
    monkeypatch.setattr(eager, "_call", None)  # which XLA computes in its place
    jax.clear_caches()
    want = PROGRAMS[name]()
    assert (found.dtype, found.shape, found.weak_type) == (want.dtype, want.shape, want.weak_type)
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(want))


def test_what_rounds_twice_or_has_no_exact_answer_is_left_to_xla():
    for program in (lambda x: x * Y + 1, jnp.exp, jnp.sum, lambda x: x @ Y.T):
        assert not eager.is_known(jax.make_jaxpr(program)(X))
    assert eager.is_known(jax.make_jaxpr(lambda x: jnp.where(x > 0, x + 1, 0))(X))


def test_what_was_placed_stays_there():
    there = jax.device_put(X, jax.devices()[3])
    assert (there + 1).devices() == {jax.devices()[3]}
    with jax.default_device(jax.devices()[2]):
        assert (jnp.ones(3) + 1).devices() == {jax.devices()[2]}


def test_denormal_numbers_and_integers_out_of_range_are_left_to_xla():
    x = jnp.float32([1e-38, 3.0])
    np.testing.assert_array_equal(x * jnp.float32(0.1), jax.jit(lambda x: x * jnp.float32(0.1) + 0)(x))
    with pytest.raises(eager.NotHere), np.errstate(invalid="ignore"):
        eager._convert(np.float32([3e10]), new_dtype=np.int32)
