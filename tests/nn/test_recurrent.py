"""Recurrent layers against PyTorch, Flax and equations written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxdl.nn import recurrence, recurrent
from jaxdl.nn.recurrent import Recurrent, RecurrentStack

B, T, D, H = 4, 7, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, T, D)).astype(np.float32)
MASK = (np.arange(T)[None] < np.array([7, 4, 1, 6])[:, None]).astype(np.float32)
KINDS = {
    "rnn": {"cell": "rnn"},
    "lstm": {"cell": "lstm"},
    "peepholes": {"cell": "lstm", "peepholes": True},
    "gru": {"cell": "gru"},
    "gru_after": {"cell": "gru", "reset_after": True},
}
FIRST = tuple(RNG.normal(size=(B, H)).astype(np.float32) for _ in range(2))


def layer(kind, **changes):
    return Recurrent(H, **{**KINDS[kind], **changes})


def random_params(module, seed=1):
    shapes = jax.jit(module.init)(jax.random.key(0), jnp.asarray(X))["params"]
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * draw.normal(size=leaf.shape), jnp.float32), shapes)


def apply(module, params, *args, **named):
    """`module.apply` as one program."""
    return jax.jit(lambda *args: module.apply(*args, **named))(params, *args)


def carry_of(kind):
    return FIRST[: 2 if kind in ("lstm", "peepholes") else 1]


def sigma(z):
    return 1.0 / (1.0 + np.exp(-z))


def written_out(kind, params, x, carry):
    """The printed equations, step by step in float64: (h [B, T, H], last carry)."""
    w, u, b = (np.asarray(params[name], np.float64) for name in ("kernel", "recurrent_kernel", "bias"))
    block = lambda m, k: m[..., k * H : (k + 1) * H]  # noqa: E731
    h, c = (*(np.asarray(part, np.float64) for part in carry), None)[:2]
    outputs = []
    for t in range(x.shape[1]):
        z = x[:, t] @ w
        if kind == "rnn":
            h = np.tanh(z + h @ u + b)
        elif kind in ("lstm", "peepholes"):
            p = np.asarray(params["peephole_scale"], np.float64) if kind == "peepholes" else np.zeros((3, H))
            pre = z + h @ u + b
            i, f = sigma(block(pre, 1) + p[0] * c), sigma(block(pre, 2) + p[1] * c)
            c = i * np.tanh(block(pre, 0)) + f * c
            h = sigma(block(pre, 3) + p[2] * c) * np.tanh(c)
        elif kind == "gru":
            r, s = (sigma(block(z, k) + h @ block(u, k) + block(b, k)) for k in (0, 1))
            h = (1 - s) * h + s * np.tanh(block(z, 2) + (r * h) @ block(u, 2) + block(b, 2))
        else:
            r, s = (sigma(block(z, k) + h @ block(u, k) + block(b, k)) for k in (0, 1))
            h = (1 - s) * h + s * np.tanh(block(z, 2) + block(b, 3) + r * (h @ block(u, 2) + block(b, 2)))
        outputs.append(h)
    return np.stack(outputs, 1), (h,) if c is None else (h, c)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_are_the_printed_equations(kind):
    module = layer(kind)
    params = random_params(module)
    h, last = apply(module, {"params": params}, X, carry_of(kind))
    expected, expected_last = written_out(kind, params, X, carry_of(kind))
    np.testing.assert_allclose(h, expected, atol=2e-6)
    for got, want in zip(last, expected_last, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("masked", "reverse"), [(False, False), (True, True)])
def test_gradients_are_those_of_autodiff(kind, masked, reverse, monkeypatch):
    """The product after the loop gives what adding up a matrix per step gives: the same loop without its own rule."""
    module = layer(kind, reverse=reverse)
    weights = jnp.asarray(RNG.normal(size=(B, T, H)), jnp.float32)
    mask = jnp.asarray(MASK) if masked else None

    def loss(params, x, carry):
        h, last = apply(module, {"params": params}, x, carry, mask=mask)
        return (weights * h).sum() + sum(jnp.sin(part).sum() for part in last)

    arguments = (random_params(module), jnp.asarray(X), carry_of(kind))
    monkeypatch.setattr(recurrence, "_SMALLEST_GROUP", 2)  # four rows are two groups
    ours = jax.jit(jax.grad(loss, (0, 1, 2)))(*arguments)
    monkeypatch.setattr(recurrent, "recur", lambda *args: recurrence._loop(*args)[0])
    theirs = jax.jit(jax.grad(lambda *args: loss(*args), (0, 1, 2)))(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, theirs)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(ours[0]))


def test_lstm_is_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    module = layer("lstm")
    params = random_params(module)
    reference = torch.nn.LSTM(D, H, batch_first=True)
    order = np.concatenate([np.arange(H) + H * k for k in (1, 2, 0, 3)])  # PyTorch has i f z o
    _load(torch, reference, params, order)
    x = torch.tensor(X, requires_grad=True)
    out, (h, c) = reference(x, tuple(torch.tensor(part)[None] for part in FIRST))
    out.square().sum().backward()

    def loss(params, x):
        h, last = apply(module, {"params": params}, x, FIRST)
        return jnp.square(h).sum(), (h, last)

    (_, (ours, last)), (dparams, dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, jnp.asarray(X))
    np.testing.assert_allclose(ours, out.detach(), atol=1e-5)
    np.testing.assert_allclose(last[0], h[0].detach(), atol=1e-5)
    np.testing.assert_allclose(last[1], c[0].detach(), atol=1e-5)
    np.testing.assert_allclose(dx, x.grad, atol=2e-5)
    np.testing.assert_allclose(
        np.asarray(dparams["recurrent_kernel"])[:, order].T, reference.weight_hh_l0.grad, atol=5e-5
    )
    np.testing.assert_allclose(np.asarray(dparams["kernel"])[:, order].T, reference.weight_ih_l0.grad, atol=5e-5)
    np.testing.assert_allclose(np.asarray(dparams["bias"])[order], reference.bias_ih_l0.grad, atol=5e-5)


def test_gru_after_is_pytorchs_with_the_other_z():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    module = layer("gru_after")
    params = random_params(module)
    reference = torch.nn.GRU(D, H, batch_first=True)
    w, u, b = (np.asarray(params[name]) for name in ("kernel", "recurrent_kernel", "bias"))
    sign = np.concatenate([np.ones(H), -np.ones(H), np.ones(H)]).astype(np.float32)  # its z is our 1 - z
    b_ih = np.concatenate([b[: 2 * H], b[3 * H :]]) * sign
    b_hh = np.concatenate([np.zeros(2 * H, np.float32), b[2 * H : 3 * H]])
    values = {"weight_ih_l0": (w * sign).T, "weight_hh_l0": (u * sign).T, "bias_ih_l0": b_ih, "bias_hh_l0": b_hh}
    with torch.no_grad():
        for name, value in values.items():
            getattr(reference, name).copy_(torch.tensor(np.ascontiguousarray(value)))
    out, _ = reference(torch.tensor(X), torch.tensor(FIRST[0])[None])
    ours, _ = apply(module, {"params": params}, X, FIRST[:1])
    np.testing.assert_allclose(ours, out.detach(), atol=1e-5)


def test_without_peepholes_it_is_flaxs_lstm():
    module = layer("peepholes")
    params = dict(random_params(module))
    params["peephole_scale"] = jnp.zeros((3, H))
    cell = nn.OptimizedLSTMCell(H)
    blocks = {name: slice(k * H, (k + 1) * H) for name, k in zip("gifo", range(4), strict=True)}
    flax_params = {f"i{name}": {"kernel": params["kernel"][:, at]} for name, at in blocks.items()}
    flax_params |= {
        f"h{name}": {"kernel": params["recurrent_kernel"][:, at], "bias": params["bias"][at]}
        for name, at in blocks.items()
    }
    carry, theirs = (jnp.asarray(FIRST[1]), jnp.asarray(FIRST[0])), []
    for t in range(T):
        carry, h = cell.apply({"params": flax_params}, carry, X[:, t])
        theirs.append(h)
    ours, _ = apply(module, {"params": params}, X, FIRST)
    np.testing.assert_allclose(ours, np.stack(theirs, 1), atol=2e-6)
    plain, _ = apply(layer("lstm"), {"params": {k: v for k, v in params.items() if k != "peephole_scale"}}, X, FIRST)
    np.testing.assert_allclose(ours, plain, atol=1e-6)


def test_error_flows_unchanged_through_open_forget_and_closed_input_gates():
    """f = 1 and i = 0: the derivative of c_T by c_0 is one, however long the sequence."""
    module, steps = layer("lstm"), 200
    params = jax.tree.map(jnp.zeros_like, random_params(module))
    bias = jnp.zeros(4 * H).at[H : 2 * H].set(-100.0).at[2 * H : 3 * H].set(100.0)
    x = jnp.asarray(RNG.normal(size=(1, steps, D)), jnp.float32)

    def last(c):
        return apply(module, {"params": {**params, "bias": bias}}, x, (jnp.zeros((1, H)), c))[1][1][0]

    np.testing.assert_array_equal(jax.jacobian(last)(jnp.ones((1, H)))[:, 0], np.eye(H))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_freezes_the_state(kind):
    module = layer(kind)
    params = {"params": random_params(module)}
    garbage = np.where(MASK[..., None] > 0, X, 1e3).astype(np.float32)
    h, last = apply(module, params, garbage, mask=MASK)
    for row, length in enumerate((7, 4, 1, 6)):
        alone, alone_last = apply(module, params, X[row : row + 1, :length])
        np.testing.assert_allclose(h[row, :length], alone[0], atol=1e-6)
        assert not np.asarray(h[row, length:]).any()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[row], b[0], atol=1e-6), last, alone_last)  # noqa: B023


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_backward_direction_reads_each_row_from_its_own_end(cell):
    module = RecurrentStack((H,), cell, bidirectional=True)
    params = jax.jit(module.init)(jax.random.key(3), X)
    h, last = apply(module, params, X, mask=MASK)
    forward = apply(Recurrent(H, cell), {"params": params["params"]["layer_0"]}, X)
    backward = apply(Recurrent(H, cell), {"params": params["params"]["backward_0"]}, X[:, ::-1])
    np.testing.assert_allclose(h[0, :, :H], forward[0][0], atol=1e-6)
    np.testing.assert_allclose(h[0, :, H:], backward[0][0, ::-1], atol=1e-6)
    for row, length in ((1, 4), (2, 1)):
        turned = X[row : row + 1, :length][:, ::-1]
        alone, alone_last = apply(Recurrent(H, cell), {"params": params["params"]["backward_0"]}, turned)
        np.testing.assert_allclose(h[row, :length, H:], alone[0, ::-1], atol=1e-6)
        np.testing.assert_allclose(last[1][0][row], alone_last[0][0], atol=1e-6)


def test_a_carry_goes_on_where_it_was():
    module = RecurrentStack((H, H), "lstm", learn_initial=True)
    params = jax.jit(module.init)(jax.random.key(0), X)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    whole, last = apply(module, params, X)
    first, carry = apply(module, params, X[:, :3])
    second, end = apply(module, params, X[:, 3:], carry)
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), end, last)
    reset, _ = apply(module, params, X, carry, reset=jnp.array([1.0, 0.0, 1.0, 1.0]))
    np.testing.assert_allclose(reset[0], whole[0], atol=1e-6)
    assert np.abs(np.asarray(reset[1] - whole[1])).max() > 1e-3
    zeros = module.zero_carry(B)
    assert jax.tree.map(jnp.shape, zeros) == jax.tree.map(jnp.shape, carry)
    from_zero, _ = apply(module, params, X, zeros)
    assert np.abs(np.asarray(from_zero - whole)).max() > 1e-3  # the learnt first state is not zero


def test_parameters_do_not_depend_on_the_length_and_gru_has_three_quarters_of_lstms():
    def count(cell, steps):
        module = Recurrent(H, cell)
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, steps, D))))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert count("lstm", 3) == count("lstm", 300) == 4 * count("rnn", 3)
    assert 4 * count("gru", 3) == 3 * count("lstm", 3)


def test_half_precision_keeps_the_cell_state_in_float32():
    module = layer("lstm", dtype=jnp.bfloat16)
    params = {"params": random_params(module)}
    h, (_, c) = apply(module, params, X)
    exact, _ = apply(layer("lstm"), params, X)
    assert h.dtype == jnp.bfloat16 and c.dtype == jnp.float32
    np.testing.assert_allclose(h.astype(np.float32), exact, atol=0.05)


def test_an_unknown_cell_is_named():
    with pytest.raises(ValueError, match="unknown recurrent cell 'lsm'"):
        Recurrent(H, "lsm").init(jax.random.key(0), X)


def _load(torch, reference, params, order):
    with torch.no_grad():
        reference.weight_ih_l0.copy_(torch.tensor(np.ascontiguousarray(np.asarray(params["kernel"])[:, order].T)))
        reference.weight_hh_l0.copy_(
            torch.tensor(np.ascontiguousarray(np.asarray(params["recurrent_kernel"])[:, order].T))
        )
        reference.bias_ih_l0.copy_(torch.tensor(np.asarray(params["bias"])[order]))
        reference.bias_hh_l0.zero_()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_only_the_backward_direction_sees_the_future(bidirectional):
    module = RecurrentStack((H, H), "gru", bidirectional=bidirectional)
    params = jax.jit(module.init)(jax.random.key(0), X)

    def middle(x):
        return apply(module, params, x)[0][0, 3].sum()

    influence = np.abs(np.asarray(jax.jit(jax.grad(middle))(jnp.asarray(X))))[0].max(axis=-1)
    assert (influence[:4] > 0).all()
    assert (influence[4:] > 0).all() if bidirectional else not influence[4:].any()


def test_only_an_lstm_has_peepholes():
    with pytest.raises(ValueError, match="only an LSTM has peepholes, not cell 'gru'"):
        Recurrent(H, cell="gru", peepholes=True).init(jax.random.key(0), X)
