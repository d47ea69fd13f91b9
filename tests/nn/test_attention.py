import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.nn.attention import (
    AdditiveAttention,
    KeyValue,
    MultiHeadAttention,
    attend,
    causal_mask,
    join_heads,
    padding_mask,
    split_heads,
)

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of attention: pip install jaxdl[oracles]")
B, H, T, S, D = 3, 4, 5, 7, 16
KEY = jax.random.key(0)


def draws(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def attention(x, module=None, **call):
    module = module or MultiHeadAttention(D, H)
    variables = module.init(KEY, x, **call)
    return module, variables, jax.jit(lambda v, x: module.apply(v, x, **call))


@pytest.mark.parametrize("kind", ["free", "causal", "padding"])
def test_attend_and_its_gradient_equal_pytorchs(kind):
    q, k, v = draws(B, H, T, 8), draws(B, H, T, 8), draws(B, H, T, 8) + 1
    mask = {
        "free": None,
        "causal": np.asarray(causal_mask(T, T)),
        "padding": np.asarray(padding_mask(np.arange(T) < np.asarray([5, 3, 1])[:, None])),
    }[kind]
    ours, back = jax.vjp(lambda q, k, v: attend(q, KeyValue(k, v), mask)[0], q, k, v)
    theirs = [torch.tensor(a, requires_grad=True) for a in (q, k, v)]
    found = torch.nn.functional.scaled_dot_product_attention(
        *theirs, attn_mask=None if mask is None else torch.tensor(mask)
    )
    np.testing.assert_allclose(ours, found.detach(), atol=2e-6)
    found.square().sum().backward()
    for a, b in zip(back(2 * ours), theirs, strict=True):
        np.testing.assert_allclose(a, b.grad, atol=2e-5)


@pytest.mark.parametrize("memory", [False, True])
def test_the_module_equals_pytorchs_multihead_attention(memory):
    x, m = draws(B, T, D), draws(B, S, D)
    module = MultiHeadAttention(D, H, memory)

    def run(module, x, m):
        return module(x, module.read(m))[0] if memory else module(x, mask=causal_mask(T, T))[0]

    variables = module.init(KEY, x, m, method=run)
    variables = jax.tree.map(lambda leaf: jnp.asarray(draws(*leaf.shape)), variables)
    params = variables["params"]
    theirs = torch.nn.MultiheadAttention(D, H, batch_first=True)
    names = ("query", "key_value") if memory else ("query_key_value",)
    with torch.no_grad():
        for kind, target, axes in (("kernel", theirs.in_proj_weight, (D, -1)), ("bias", theirs.in_proj_bias, (-1,))):
            # ours are [D, parts, D] and [parts, D] where several parts are projected together
            flat = [np.asarray(params[name][kind]).reshape(axes).T for name in names]
            target.copy_(torch.tensor(np.concatenate(flat)))
        theirs.out_proj.weight.copy_(torch.tensor(np.asarray(params["output"]["kernel"]).T))
        theirs.out_proj.bias.copy_(torch.tensor(np.asarray(params["output"]["bias"])))
    source = torch.tensor(m if memory else x)
    mask = None if memory else ~torch.tensor(np.asarray(causal_mask(T, T)))
    found, weights = theirs(torch.tensor(x), source, source, attn_mask=mask, average_attn_weights=False)
    ours, sown = module.apply(variables, x, m, method=run, mutable=["intermediates"])
    np.testing.assert_allclose(ours, found.detach(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], weights.detach(), atol=1e-5)


def test_heads_are_parts_of_the_features_that_attend_by_themselves():
    q, k, v = draws(B, T, D), draws(B, S, D), draws(B, S, D) + 2
    whole, _ = attend(split_heads(q, H), KeyValue(split_heads(k, H), split_heads(v, H)))
    np.testing.assert_array_equal(join_heads(split_heads(q, H)), q)
    parts = []
    for head in range(H):
        own = slice(head * D // H, (head + 1) * D // H)
        scores = q[..., own] @ np.swapaxes(k[..., own], 1, 2) / np.sqrt(D // H)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        parts.append(weights @ v[..., own])
    np.testing.assert_allclose(join_heads(whole), np.concatenate(parts, -1), atol=1e-5)
    with pytest.raises(ValueError, match="3 heads"):
        split_heads(q, 3)


def test_the_future_changes_nothing_and_the_present_does():
    x = draws(B, T, D)
    _, variables, run = attention(x, mask=causal_mask(T, T))
    before = run(variables, x)[0]
    for t in range(T):
        after = run(variables, jnp.asarray(x).at[:, t].add(3.0))[0]
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert (jnp.abs(after[:, t:] - before[:, t:]).max(axis=(0, 2)) > 1e-4).all()


def test_padding_is_never_looked_at():
    x, lengths = draws(B, T, D), np.asarray([5, 3, 2])
    valid = np.arange(T) < lengths[:, None]
    module, variables, run = attention(x, mask=padding_mask(valid))
    outputs = run(variables, x)[0]
    other = run(variables, np.where(valid[..., None], x, 100.0))[0]
    np.testing.assert_allclose(np.where(valid[..., None], outputs, 0), np.where(valid[..., None], other, 0), atol=1e-6)
    for row, length in enumerate(lengths):
        alone = module.apply(variables, x[row : row + 1, :length])[0]
        np.testing.assert_allclose(outputs[row, :length], alone[0], atol=1e-5)


def test_a_query_without_anything_to_look_at_gets_a_finite_answer():
    weights = attend(draws(1, 1, 2, 4), KeyValue(draws(1, 1, 3, 4), draws(1, 1, 3, 4)), jnp.zeros((2, 3), bool))[1]
    np.testing.assert_allclose(weights, 1 / 3, atol=1e-6)


def test_without_positions_it_is_permutation_equivariant():
    x, order = draws(B, T, D), np.asarray([3, 0, 4, 1, 2])
    _, variables, run = attention(x)
    np.testing.assert_allclose(run(variables, x[:, order])[0], run(variables, x)[0][:, order], atol=1e-5)


@pytest.mark.parametrize("positions", ["none", "rotary"])
def test_a_cache_gives_what_the_whole_sequence_gives(positions):
    x = draws(B, T, D)
    module, variables, run = attention(x, MultiHeadAttention(D, H, positions=positions), mask=causal_mask(T, T))
    whole = run(variables, x)[0]
    empty = jnp.zeros((B, H, T, D // H))

    @jax.jit
    def step(x, cache, start):
        return module.apply(variables, x, cache, causal_mask(1, T, start), start)

    cache, found = KeyValue(empty, empty), []
    for t in range(T):
        y, cache = step(x[:, t : t + 1], cache, t)
        found.append(y[:, 0])
    np.testing.assert_allclose(jnp.stack(found, 1), whole, atol=1e-5)


def test_dropped_weights_average_out_and_are_off_in_evaluation():
    x = draws(B, T, D)
    module, variables, _ = attention(x, MultiHeadAttention(D, H, dropout=0.5))

    @functools.partial(jax.vmap, in_axes=0)
    def drawn(key):
        return module.apply(variables, x, train=True, rngs={"noise": key})[0]

    found = jax.jit(drawn)(jax.random.split(KEY, 4000))
    expected = module.apply(variables, x)[0]
    assert float(found.std(axis=0).min()) > 1e-3
    np.testing.assert_allclose(found.mean(axis=0), expected, atol=5 * float(found.std()) / 4000**0.5)


def test_additive_attention_equals_its_equation():
    q, m, valid = draws(B, 6), draws(B, S, D), np.arange(S) < np.asarray([7, 4, 1])[:, None]
    module = AdditiveAttention(9)

    def run(module, q, m):
        return module(q, m, module.read(m), valid)

    variables = module.init(KEY, q, m, method=run)
    variables = jax.tree.map(lambda leaf: jnp.asarray(draws(*leaf.shape)), variables)
    p = jax.tree.map(np.asarray, variables["params"])
    context, weights = module.apply(variables, q, m, method=run)
    for row in range(B):
        count = valid[row].sum()
        e = [
            p["score"]["kernel"][:, 0]
            @ np.tanh(q[row] @ p["query"]["kernel"] + m[row, s] @ p["key"]["kernel"] + p["key"]["bias"])
            for s in range(count)
        ]
        a = np.exp(e) / np.exp(e).sum()
        np.testing.assert_allclose(weights[row], np.pad(a, (0, S - count)), atol=1e-5)
        np.testing.assert_allclose(context[row], a @ m[row, :count], atol=1e-4)
