import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdl.nn import convolution as module
from jaxdl.nn.convolution import Conv, convolution
from jaxdl.nn.unfolding import in_parts
from jaxdl.target import compiling_for

# kernels that are written for what XLA:CPU makes of them
pytestmark = pytest.mark.optimized

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}

# x shape, kernel shape, options
CASES = {
    "same": ((3, 7, 6, 4), (3, 3, 4, 5), {}),
    "valid": ((3, 7, 6, 4), (3, 2, 4, 5), {"padding": "VALID"}),
    "wide_kernel": ((2, 5, 5, 3), (5, 5, 3, 4), {"padding": 3}),
    "pairs": ((2, 7, 6, 3), (3, 3, 3, 4), {"padding": ((2, 0), (0, 3))}),
    "cropped": ((2, 8, 9, 3), (3, 3, 3, 4), {"padding": ((-1, 0), (0, -2))}),
    "strided": ((2, 9, 8, 3), (3, 3, 3, 4), {"strides": 2, "padding": 1}),
    "strided_with_rest": ((2, 8, 7, 3), (3, 2, 3, 4), {"strides": (3, 2), "padding": "VALID"}),
    "stride_above_kernel": ((2, 8, 8, 3), (1, 1, 3, 4), {"strides": 2}),
    "dilated": ((2, 9, 8, 3), (3, 2, 3, 4), {"dilation": (2, 3)}),
    "dilated_and_strided": ((2, 9, 9, 3), (3, 3, 3, 4), {"dilation": 2, "strides": (2, 1), "padding": 2}),
    "few_channels": ((2, 9, 8, 3), (3, 5, 3, 4), {"padding": ((1, 0), (2, 3)), "dilation": (2, 1)}),
    "few_channels_cropped": ((2, 9, 12, 3), (5, 4, 3, 4), {"padding": ((0, 1), (-1, -2))}),
    "many_channels": ((2, 5, 6, 33), (5, 5, 33, 4), {}),
    "one_channel": ((2, 8, 8, 1), (5, 5, 1, 3), {}),
    "one_channel_strided": ((2, 9, 8, 1), (3, 3, 1, 3), {"strides": 2, "padding": "VALID"}),
    "grouped": ((2, 6, 6, 4), (3, 3, 2, 6), {"groups": 2}),
    "depthwise": ((2, 6, 6, 4), (3, 3, 1, 4), {"groups": 4, "strides": 2}),
    "sixteen_channels": ((2, 5, 6, 3), (3, 3, 3, 16), {}),
    "sixteen_both_sides": ((2, 5, 8, 17), (3, 3, 17, 16), {"padding": ((1, 0), (2, 0))}),
    "sixteen_odd_width": ((2, 5, 7, 16), (3, 3, 16, 16), {}),
    "1d": ((3, 11, 4), (4, 4, 5), {}),
    "1d_strided": ((3, 11, 4), (3, 4, 5), {"strides": 2, "dilation": 2, "padding": 1}),
    "3d": ((2, 5, 4, 6, 2), (3, 2, 3, 2, 3), {}),
    "3d_strided": ((2, 5, 4, 6, 2), (3, 2, 3, 2, 3), {"strides": (1, 2, 2), "padding": 1}),
}


def reference(x, kernel, strides=1, padding="SAME", dilation=1, groups=1):
    rank = x.ndim - 2
    spread = lambda v: (v,) * rank if isinstance(v, int) else tuple(v)  # noqa: E731
    if isinstance(padding, int):
        padding = ((padding, padding),) * rank
    return lax.conv_general_dilated(
        x,
        kernel,
        spread(strides),
        padding,
        rhs_dilation=spread(dilation),
        dimension_numbers=LAYOUTS[rank],
        feature_group_count=groups,
    )


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def gradients(f, x, kernel, options):
    y, pull = jax.vjp(lambda x, k: f(x, k, **options), x, kernel)
    (g,) = draw(y.shape)
    return y, *pull(jnp.roll(g, 1))


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_equal_those_of_automatic_differentiation(case):
    x_shape, kernel_shape, options = CASES[case]
    x, kernel = draw(x_shape, kernel_shape)
    ours = jax.jit(functools.partial(gradients, convolution, options=options))(x, kernel)
    theirs = jax.jit(functools.partial(gradients, reference, options=options))(x, kernel)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("sixteen")])
def test_one_thread_computes_two_of_sixteen_channels_at_a_time(case, threads, monkeypatch):
    monkeypatch.setattr(module, "cpu_threads", lambda: threads)
    monkeypatch.setattr(module, "_FEW_POSITIONS", 0)
    x_shape, kernel_shape, options = CASES[case]
    x, kernel = draw(x_shape, kernel_shape)
    ours = jax.jit(functools.partial(convolution, **options))
    np.testing.assert_allclose(ours(x, kernel), reference(x, kernel, **options), rtol=1e-4, atol=1e-4)
    at_a_time = "stride = [1, 2]" in ours.lower(x, kernel).as_text()
    assert at_a_time == (threads == 1 and case != "sixteen_odd_width")


@pytest.mark.parametrize("case", ["same", "strided_with_rest", "dilated_and_strided", "3d"])
def test_gradient_by_the_kernel_as_a_convolution_for_arrays_too_large_to_unfold(case, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST_UNFOLDED", 0)
    monkeypatch.setattr(module, "_FEW_POSITIONS", 0)
    called = []
    plain = module._as_convolution
    monkeypatch.setattr(module, "_as_convolution", lambda *a, **k: called.append(1) or plain(*a, **k))
    x_shape, kernel_shape, options = CASES[case]
    x, kernel = draw(x_shape, kernel_shape)
    ours = jax.jit(functools.partial(gradients, convolution, options=options))(x, kernel)
    assert called
    for a, b in zip(ours, jax.jit(functools.partial(gradients, reference, options=options))(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["same", "sixteen_channels"])
def test_gradients_in_parts_of_the_batch(case, monkeypatch):
    monkeypatch.setattr(module, "_FEW_POSITIONS", 0)
    x_shape, kernel_shape, options = CASES[case]
    x, kernel = draw((6, *x_shape[1:]), kernel_shape)
    monkeypatch.setattr(module, "_CACHED_UNFOLDED", x.size)
    counts = []
    whole = module.in_parts
    monkeypatch.setattr(module, "in_parts", lambda *a: counts.append(a[3]) or whole(*a))
    ours = jax.jit(functools.partial(gradients, convolution, options=options))(x, kernel)
    for a, b in zip(ours, jax.jit(functools.partial(gradients, reference, options=options))(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert len(counts) == 1 and counts[0] > 1


@pytest.mark.parametrize(
    ("batch", "channels", "taps", "products"),
    [(6, 40, 3, True), (13, 40, 3, False), (6, 72, 3, False), (6, 40, 5, False)],
)
def test_the_gradient_by_the_input_is_a_product_where_that_is_faster(batch, channels, taps, products, monkeypatch):
    monkeypatch.setattr(module, "_CACHED_UNFOLDED", batch * 36 * channels)
    called, plain = [], module._products
    monkeypatch.setattr(module, "_products", lambda *a, **k: called.append(k["both"]) or plain(*a, **k))
    x, kernel = draw((batch, 6, 6, channels), (3, taps, channels, 4))
    ours = jax.jit(functools.partial(gradients, convolution, options={}))(x, kernel)
    assert called and set(called) == {products}
    for a, b in zip(ours, jax.jit(functools.partial(gradients, reference, options={}))(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("least", "parts"), [(1, 1), (2, 2), (5, 6), (7, 12), (13, 1)])
def test_rows_and_totals_over_parts_are_those_of_the_batch(least, parts):
    x, g = draw((12, 5), (12, 3))
    sizes = []

    def products(x, g):
        sizes.append(x.shape[0])
        return jnp.square(g) @ jnp.ones((3, 4)) + x[:, :4], x.T @ g

    found = jax.jit(lambda x, g: in_parts(products, x, g, least))(x, g)
    assert set(sizes) == {12 // parts}
    for ours, whole in zip(found, products(x, g), strict=True):
        np.testing.assert_allclose(ours, whole, atol=1e-5)
    rows, total = in_parts(lambda x, g: (None, x.T @ g), x, g, least)
    np.testing.assert_allclose(total, x.T @ g, atol=1e-5)
    assert rows is None
    # to any order, as the convolution
    both = [
        jax.jit(jax.grad(lambda x, f=f: sum(jnp.square(part).sum() for part in f(x))))(x)
        for f in (lambda x: in_parts(products, x, g, least), lambda x: products(x, g))
    ]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "case", ["valid", "strided", "dilated", "grouped", "sixteen_channels", "1d_strided", "3d_strided"]
)
def test_value_and_gradients_equal_pytorch(case):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent reference for convolutions")
    x_shape, kernel_shape, options = CASES[case]
    x, kernel = draw(x_shape, kernel_shape)
    rank = len(x_shape) - 2
    y, dx, dk = jax.jit(functools.partial(gradients, convolution, options=options))(x, kernel)
    tx = torch.tensor(np.moveaxis(np.asarray(x), -1, 1).copy(), requires_grad=True)
    order = (rank + 1, rank, *range(rank))
    tk = torch.tensor(np.transpose(np.asarray(kernel), order).copy(), requires_grad=True)
    padding = options.get("padding", "SAME")
    sides = padding if isinstance(padding, int) else 0
    padded = tx
    if padding == "SAME":
        spans = [
            d * (k - 1) for k, d in zip(kernel_shape, np.broadcast_to(options.get("dilation", 1), rank), strict=False)
        ]
        flat = [side for span in reversed(spans) for side in (int(span) // 2, int(span) - int(span) // 2)]
        padded = torch.nn.functional.pad(tx, flat)
    apply = getattr(torch.nn.functional, f"conv{rank}d")
    ty = apply(
        padded,
        tk,
        stride=options.get("strides", 1),
        padding=sides,
        dilation=options.get("dilation", 1),
        groups=options.get("groups", 1),
    )
    (g,) = draw(y.shape)
    ty.backward(torch.tensor(np.moveaxis(np.asarray(jnp.roll(g, 1)), -1, 1).copy()))
    np.testing.assert_allclose(y, np.moveaxis(ty.detach().numpy(), 1, -1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dx, np.moveaxis(tx.grad.numpy(), 1, -1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dk, np.transpose(tk.grad.numpy(), (*range(2, rank + 2), 1, 0)), rtol=1e-4, atol=1e-4)


def penalty(f, x, kernel, options):
    """A gradient penalty: the loss contains a gradient, so its gradients are of second order."""
    slope_x, slope_k = jax.grad(lambda x, k: jnp.tanh(f(x, k, **options)).sum(), (0, 1))(x, kernel)
    return jnp.square(slope_x).sum() + jnp.tanh(slope_k).sum()


@pytest.mark.parametrize(
    "case", ["same", "strided_with_rest", "dilated_and_strided", "one_channel", "sixteen_channels", "1d", "grouped"]
)
def test_second_order_gradients_equal_those_of_the_plain_convolution(case):
    x_shape, kernel_shape, options = CASES[case]
    x, kernel = draw(x_shape, kernel_shape)
    second = lambda f: jax.jit(jax.grad(functools.partial(penalty, f, options=options), (0, 1)))(x, kernel)  # noqa: E731
    for ours, theirs in zip(second(convolution), second(reference), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(jnp.abs(theirs).max()))


def test_hessian_by_reverse_over_reverse():
    x, kernel = draw((1, 4, 4, 2), (2, 2, 2, 1))
    loss = lambda f: lambda k: jnp.exp(0.3 * f(x, k)).sum()  # noqa: E731
    ours = jax.jit(jax.jacrev(jax.grad(loss(convolution))))(kernel)
    theirs = jax.jit(jax.hessian(loss(reference)))(kernel)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_inside_a_loop_and_under_vmap():
    x, kernel = draw((2, 6, 6, 3), (3, 3, 3, 4))
    slope = jax.grad(lambda k: jnp.square(convolution(x, k)).sum())
    once = kernel - 1e-4 * slope(kernel)
    looped = jax.jit(lambda k: lax.fori_loop(0, 1, lambda _, k: k - 1e-4 * slope(k), k))(kernel)
    np.testing.assert_allclose(looped, once, rtol=1e-6, atol=1e-6)
    kernels = jnp.stack([kernel, 2 * kernel])
    np.testing.assert_allclose(jax.vmap(slope)(kernels)[1], slope(2 * kernel), rtol=1e-4, atol=1e-3)


def test_value_equals_the_sum_over_taps_and_channels():
    x, kernel = draw((2, 5, 6, 3), (2, 3, 3, 4))
    expected = sum(
        jnp.einsum("bijc,co->bijo", x[:, i : i + 4, j : j + 4], kernel[i, j]) for i in range(2) for j in range(3)
    )
    np.testing.assert_allclose(convolution(x, kernel, padding="VALID"), expected, rtol=1e-5, atol=1e-5)


def test_output_size_formula():
    for size, pad, taps, stride in [(8, 0, 3, 1), (8, 1, 3, 2), (7, 2, 5, 3), (9, 0, 4, 2), (5, 1, 1, 2), (4, 0, 4, 1)]:
        x, kernel = jnp.ones((1, size, 1)), jnp.ones((taps, 1, 1))
        y = convolution(x, kernel, strides=stride, padding=pad)
        assert y.shape[1] == (size + 2 * pad - taps) // stride + 1


def test_layer_has_the_parameters_of_the_formula_and_computes_in_its_dtype():
    x = jnp.ones((2, 8, 8, 6))
    layer = Conv(10, (3, 5), groups=2)
    variables = layer.init(jax.random.key(0), x)
    assert sum(p.size for p in jax.tree.leaves(variables)) == 3 * 5 * 6 // 2 * 10 + 10
    assert "bias" not in Conv(4, (3, 3), use_bias=False).init(jax.random.key(0), x)["params"]
    half = Conv(10, (3, 5), groups=2, dtype=jnp.bfloat16)
    assert half.apply(variables, x).dtype == jnp.bfloat16
    assert variables["params"]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convolution(jnp.ones((2, 4)), jnp.ones((2, 2, 2))), "spatial axes"),
        (lambda: convolution(jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3))), "2 spatial axes"),
        (lambda: convolution(jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 2, 4))), "channels do not fit"),
        (lambda: convolution(jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 4)), padding="FULL"), "SAME, VALID or ints"),
        (lambda: convolution(jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 4)), strides=(1, 0)), "strides"),
        (lambda: Conv(5, (3, 3), groups=2).init(jax.random.key(0), jnp.ones((2, 4, 4, 4))), "groups=2"),
    ],
)
def test_wrong_arguments_get_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("outputs", [6, 100])
def test_a_gpu_adds_few_biases_to_several_positions_at_once(outputs):
    """The same layer; its bias's gradient is a sum over rows at least as wide as 96 columns, where so many divide."""
    layer, x = Conv(outputs, (1, 1)), jax.random.normal(jax.random.key(0), (4, 8, 6, 2))
    params = jax.tree.map(lambda leaf: leaf + 0.1, layer.init(jax.random.key(1), x))

    def both(params):
        return jax.value_and_grad(lambda params: jnp.sin(layer.apply(params, x)).sum())(params)

    wanted = both(params)
    with compiling_for("gpu"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), both(params), wanted)
        text = str(jax.make_jaxpr(lambda params: layer.apply(params, x))(params))
    side = {6: 16, 100: 1}[outputs]
    assert (f"{192 // side},{side * outputs}]" in text) == (side > 1)
