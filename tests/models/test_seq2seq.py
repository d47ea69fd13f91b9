import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.seq2seq import AttentionSeq2Seq

KEY = jax.random.key(0)
B, S, T, V = 4, 9, 5, 7
LENGTHS = np.asarray([9, 6, 3, 1])


@pytest.fixture(scope="module", params=["gru", "lstm"])
def translator(request):
    model = AttentionSeq2Seq(8, V, features=6, embedding=5, cell=request.param)
    draw = np.random.default_rng(0)
    source = jnp.asarray(draw.integers(1, 8, (B, S)) * (np.arange(S) < LENGTHS[:, None]), jnp.int32)
    before = jnp.asarray(draw.integers(0, V, (B, T)), jnp.int32)
    variables = jax.jit(lambda: model.init(KEY, source, before))()
    return model, variables, source, before, jax.jit(model.apply)(variables, source, before)


def test_decoding_step_by_step_equals_teacher_forcing(translator):
    model, variables, source, before, whole = translator
    memory = jax.jit(lambda x: model.apply(variables, x, method="read"))(source)
    carry = model.apply(variables, memory, T, method="begin")
    decode = jax.jit(lambda token, carry: model.apply(variables, token, memory, carry, method="decode"))
    for t in range(T):
        logits, carry = decode(before[:, t], carry)
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-5)


def test_padding_is_neither_read_nor_looked_at(translator):
    model, variables, source, before, whole = translator
    for row in (1, 3):
        own = slice(row, row + 1)
        alone = jax.jit(model.apply)(variables, source[own, : LENGTHS[row]], before[own])
        np.testing.assert_allclose(whole[row], alone[0], atol=1e-5)
    _, sown = jax.jit(lambda x, y: model.apply(variables, x, y, mutable=["intermediates"]))(source, before)
    (weights,) = sown["intermediates"]["weights"]
    assert weights.shape == (B, 1, T, S)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert float(jnp.where(source[:, None, None] == 0, weights, 0).max()) == 0


def test_a_gru_step_is_the_equations(translator):
    model, variables, source, before, whole = translator
    if model.cell != "gru":
        pytest.skip("written out for the GRU")
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    memory = jax.jit(lambda x: model.apply(variables, x, method="read"))(source)
    m, d = np.asarray(memory.states, np.float64), np.asarray(memory.first, np.float64)

    def sigma(z):
        return 1 / (1 + np.exp(-z))

    for t in range(T):
        e = p["target_embedding"]["embedding"][before[:, t]]
        a = p["attention"]
        hidden = np.tanh((d @ a["query"]["kernel"])[:, None] + m @ a["key"]["kernel"] + a["key"]["bias"])
        scores = np.where(np.asarray(source) > 0, (hidden @ a["score"]["kernel"])[..., 0], -np.inf)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        c = np.einsum("bs,bse->be", weights, m)
        w, u, b = (p["decoder"][name] for name in ("kernel", "recurrent_kernel", "bias"))
        r, z, n = np.split(np.concatenate([e, c], -1) @ w + b, 3, axis=-1)
        ur, uz, un = np.split(u, 3, axis=-1)
        r, z = sigma(r + d @ ur), sigma(z + d @ uz)
        d = (1 - z) * d + z * np.tanh(n + (r * d) @ un)
        o = np.tanh(np.concatenate([d, c, e], -1) @ p["readout"]["kernel"] + p["readout"]["bias"])
        np.testing.assert_allclose(whole[:, t], o @ p["scores"]["kernel"] + p["scores"]["bias"], atol=1e-5)


def test_the_first_state_depends_on_both_ends_of_the_source(translator):
    model, variables, source, _, _ = translator
    read = jax.jit(lambda x: model.apply(variables, x, method="read").first)
    first = read(source)
    for place in (0, S - 1):
        other = source.at[0, place].set(source[0, place] % 7 + 1)
        moved = read(other)
        assert float(jnp.abs(moved[0] - first[0]).max()) > 1e-4
        np.testing.assert_array_equal(moved[1:], first[1:])
