"""What `benchmarks.speed` compares is the same thing: the same pictures, the same operations, the passes as counted."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed import flops, kernels, naive, ours, passes, sizes, tables
from guided_jax import parallel

TINY = sizes.Size(8, 1, 8, (1, 2), 1, (2,), 8, 4, True, images=2, steps=2, batch=2, train_steps=1)
TORCH = importlib.util.find_spec("torch") and importlib.util.find_spec("diffusers")
needs_torch = pytest.mark.skipif(not TORCH, reason="the extra 'bench' is not installed")


@pytest.mark.slow
def test_naive_jax_draws_the_same_pictures():
    expected = ours.sampling(TINY, "classifier", "plain", parallel.choose_devices(TINY.images))()
    assert np.abs(expected).max() > 0.1  # not the pictures of a network that says 0
    found = naive.sampling(TINY, "classifier", "loop")()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["classifier", pytest.param("classifier-free", marks=pytest.mark.slow)])
def test_all_loops_of_jax_are_one(kind):
    """With networks that are the same and cheap: the schedule, the guidance, the steps."""
    expected = by_ours(kind)
    for who in ("loop", "scan"):
        found = naive.sampling(TINY, kind, who, smooth(TINY))()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(expected - by_ours("classifier" if kind != "classifier" else "classifier-free")).max() > 0.01


def by_ours(kind):
    draw = jax.vmap(ours.drawing(TINY, kind, "plain", *smooth(TINY)), (None, 0, 0))
    return draw({"unet": 0.0, "classifier": 0.0}, *ours.start(TINY))


def smooth(size):
    """Networks that are cheap and depend on everything they are given, of one picture or a batch."""

    def unet(params, x, t, y):
        y = jnp.asarray(y, jnp.float32)
        shift = 0.1 * y / size.num_classes + 1e-4 * jnp.asarray(t, jnp.float32)
        return 0.5 * jnp.tanh(x) + shift.reshape(shift.shape + (1,) * (x.ndim - shift.ndim))

    def classifier(params, x, t):
        means = x.mean(axis=(-3, -2, -1))
        return jnp.stack([jnp.sin(c + means) for c in range(size.num_classes)], -1)

    return unet, classifier


@needs_torch
@pytest.mark.parametrize("kind", ["classifier", "classifier-free"])
def test_pytorchs_loop_is_ours(kind):
    import torch

    from benchmarks.speed import pytorch

    def unet(x, t, y):
        return 0.5 * torch.tanh(x) + (0.1 * y / TINY.num_classes + 1e-4 * t)[:, None, None, None]

    def classifier(x, t):
        return torch.stack([torch.sin(c + x.mean((1, 2, 3))) for c in range(TINY.num_classes)], 1)

    x_T, labels = ours.start(TINY)
    with torch.no_grad():
        noise = torch.tensor(x_T).permute(0, 3, 1, 2)
        found = pytorch.draw(TINY, kind, unet, classifier, noise, torch.tensor(labels.astype(np.int64)))
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), by_ours(kind), rtol=1e-3, atol=1e-3)


@needs_torch
@pytest.mark.parametrize("size", sizes.SIZES)
def test_pytorch_does_as_many_operations(size):
    from benchmarks.speed import pytorch

    counted, theirs = flops.of_networks(sizes.SIZES[size], flops.by_torch_rules), pytorch.flops(sizes.SIZES[size])
    assert set(theirs) == {"unet", "classifier"}
    for name, count in theirs.items():
        assert abs(counted[name] / count - 1) < 0.05


def test_operations_are_counted_by_torchs_rules():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 7))
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    convolve = lambda x: jax.lax.conv_general_dilated(  # noqa: E731
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    forward = 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)
    assert flops.by_torch_rules(jnp.matmul, a, b) == 2 * 3 * 5 * 7
    assert flops.by_torch_rules(convolve, x) == forward
    assert (
        flops.by_torch_rules(jax.grad(lambda x: convolve(x).sum()), x) == 2 * forward
    )  # the input's gradient once more
    repeated = jax.jit(lambda a: jax.lax.scan(lambda c, _: (c @ b @ b.T, None), a, None, length=4)[0])
    assert flops.by_torch_rules(repeated, a) == 4 * 2 * (2 * 3 * 5 * 7)
    either = lambda a: jax.lax.cond(a.sum() > 0, lambda: a @ b @ b.T, lambda: a)  # noqa: E731
    assert flops.by_torch_rules(either, a) == 2 * (2 * 3 * 5 * 7)


@pytest.mark.slow
def test_a_training_step_is_about_three_passes():
    counted = flops.of_networks(TINY, flops.by_torch_rules)
    assert 2.8 < counted["train"] / counted["unet"] <= 3


@pytest.mark.slow
def test_passes_are_those_of_the_loops():
    steps = TINY.steps
    for who in ("ours", "loop", "scan"):
        assert passes.of_jax(TINY, "classifier", who) == {"unet": steps, "classifier": steps}
        assert passes.of_jax(TINY, "classifier-free", who) == {"unet": 2 * steps}
    assert passes.of_jax(TINY, "classifier-free", "ours, fused") == {"unet": 2 * steps}
    assert passes.of_jax(TINY, "classifier-free", "ours, 1 device, interval") == {"unet": 1.5 * steps}


@needs_torch
def test_pytorch_makes_as_many_passes():
    for job in ("classifier", "classifier-free"):
        assert passes.of_torch(TINY, job) == passes.of_jax(TINY, job, "ours")


def test_the_table_compares_within_rounds():
    base = {"size": "digits", "job": "train", "matmul": [1.0, 1.0, 2.0], "compile": 1.0, "memory": 1.0}
    first, other = (
        base | {"who": "ours", "seconds": [1.0, 2.0, 8.0]},
        base | {"who": "loop", "seconds": [3.0, 9.0, 8.0]},
    )
    assert tables.gain(other, first) == 3.0  # of 3, 4.5 and 1; the medians alone, 8 / 2, would say 4
    digits = sizes.SIZES["digits"]
    counts = {"ours": {"train": sizes.matmul_flops(digits) // (digits.batch * 2)}, "passes": {}}
    assert tables.share(first, counts) == pytest.approx(0.5)  # of 1, 0.5, 0.25
    assert "| loop | 4000 | 3.00 |" in tables.timings([first, other], counts)


def test_the_table_of_operations_compares_with_torch_where_it_counted():
    ours = {"unet": 2_000_000, "train": 6_000_000}
    counts = {"digits": {"ours": ours, "torch": {"unet": 2_100_000}, "xla": {"unet": 2_500_000, "train": 7_000_000}}}
    assert tables.operations(counts).splitlines()[2:] == [
        "| digits | unet | 2.00 | 2.10 | +5.0% | 2.50 |",
        "| digits | train | 6.00 |  |  | 7.00 |",
    ]


def test_the_paragraph_of_the_machine_has_its_rate_and_its_load():
    products = sizes.matmul_flops(sizes.SIZES["digits"])
    row = {"size": "digits", "machine": {"cpu": "a chip", "cores": 2, "python": "3.11"}, "device": None}
    rows = [
        row | {"matmul": [products / 90e9], "load": 0.25, "versions": {"jax": "1"}},
        row | {"matmul": [products / 100e9, products / 110e9], "load": 1.5, "versions": {"torch": "2"}},
    ]
    text = tables.about(rows)
    assert text.startswith("a chip, 2 cores, Python 3.11; jax 1, torch 2. ")
    assert "100 GFLOP/s in float32" in text  # the median of the three
    assert "0.2 to 1.5" in text


def test_pytorch_is_left_out_where_it_is_not(monkeypatch):
    monkeypatch.setattr(speed, "find_spec", lambda name: None)
    assert speed.competitors("digits", "train", speed.Options()) == ["ours", "ours, 1 device", "loop"]
    assert speed.competitors("digits", "train", speed.Options(who=("loop", "torch"))) == ["loop"]


@pytest.fixture
def measuring(monkeypatch):
    """A `measure` that takes no time."""
    row = {
        "matmul": [1.0],
        "load": 0.0,
        "machine": {"cpu": "x", "cores": 2, "python": "3"},
        "compile": 1.0,
        "memory": 1.0,
    }
    row |= {"seconds": [1.0], "versions": {}, "device": None}

    def measure(size, job, options, bar):
        return [row | {"size": size, "job": job, "who": who} for who in options.who or ("ours", "loop")]

    counts = {
        "ours": {"unet": 1, "train": 1},
        "xla": {"unet": 1, "train": 1},
        "passes": {"classifier": {"ours": {"unet": 1}}},
    }
    counts["passes"]["classifier"]["loop"] = {"unet": 1}
    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(speed, "count", lambda size, torch: counts)


def test_what_was_measured_before_is_kept(measuring, tmp_path, capsys):
    path = tmp_path / "speed.json"

    def rows():
        return [(row["size"], row["job"], row["who"]) for row in json.loads(path.read_text())["rows"]]

    out = ["--out", str(tmp_path), "--rounds", "1"]
    speed.main(["--sizes", "digits", "wide", "--jobs", "classifier", *out])
    both = [(size, "classifier", who) for size in ("digits", "wide") for who in ("ours", "loop")]
    assert rows() == both
    speed.main(["--sizes", "digits", "--jobs", "train", *out])
    assert rows() == [*both, *[("digits", "train", who) for who in ("ours", "loop")]]
    before = path.read_text()
    speed.main(["--sizes", "digits", "--jobs", "train", "--who", "loop", *out])
    assert path.read_text() == before  # a part of a table is in nobody's place
    assert "not kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--who measures a part"):
        speed.main(["--who", "loop", "--page", *out])


PROGRAM = """
HloModule jit_whole

%fused_computation (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %t = f32[8]{0} transpose(%p), dimensions={0}
  ROOT %c = f32[8]{0} copy(%t)
}

%body.1 (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%s), index=1
  %loop_add_fusion.3 = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused_computation
  %both.2 = (f32[8]{0}, f32[8]{0}) fusion(%loop_add_fusion.3), kind=kInput, calls=%fused_computation
  %many.4 = (s4[], s4[], s4[], s4[], s4[], /*index=5*/s4[]) fusion(%both.2), kind=kLoop, calls=%fused_computation
  %y = f32[8]{0} get-tuple-element(%both.2), index=0
  %conv.1 = (f32[8]{0}, u8[0]{0}) custom-call(%y), custom_call_target="__cudnn$convForward"
  ROOT %out = (s32[], f32[8]{0}) tuple(%s, %conv.1)
}

ENTRY %main.2 (x.1: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  %copy.1 = f32[8]{0} copy(%x.1)
  ROOT %while.1 = (s32[], f32[8]{0}) while(%copy.1), condition=%cond, body=%body.1
}
"""


def test_kernels_are_those_of_the_loop_and_not_what_is_inside_of_them():
    assert kernels.launched(PROGRAM) == {"loop_add_fusion": 1, "both": 1, "many": 1, "custom-call": 1}
    assert not kernels.launched("")
