import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.models.transformer import EncoderDecoder, Shape, TransformerLM
from jaxdl.nn.context import batch_context
from jaxdl.nn.halves import in_halves

KEY = jax.random.key(0)
V, L, B = 11, 8, 4
SHAPE = Shape(16, 4, use_bias=False)


def language_model(**changes):
    return TransformerLM(V, L, dataclasses.replace(SHAPE, **changes), 2)


def started(model, *inputs):
    """Parameters larger than the initial ones, which would hide mistakes."""
    variables = jax.jit(lambda: model.init(KEY, *inputs))()
    return jax.tree.map(lambda leaf: leaf * 5 if leaf.ndim > 1 else leaf, variables)


def tokens(*shape, low=0, high=V):
    return jnp.asarray(np.random.default_rng(sum(shape)).integers(low, high, shape), jnp.int32)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary", "none"])
def test_writing_with_a_cache_equals_reading_at_once(positions, norm):
    model, text = language_model(positions=positions, norm=norm), tokens(B, L)
    variables = started(model, text)
    whole = jax.jit(model.apply)(variables, text)
    logits, cache = jax.jit(lambda x: model.apply(variables, x, method="prefill"))(text[:, :3])
    np.testing.assert_allclose(logits, whole[:, 2], atol=2e-4)
    decode = jax.jit(lambda token, cache: model.apply(variables, token, cache, method="decode"))
    for t in range(3, L):
        logits, cache = decode(text[:, t], cache)
        np.testing.assert_allclose(logits, whole[:, t], atol=2e-4)
    assert int(cache.filled) == L
    # full: the last half is read anew, and the next token stands behind it
    logits, cache = decode(text[:, 0], cache)
    window = jnp.concatenate([text[:, L // 2 :], text[:, :1]], axis=1)
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, window)[:, -1], atol=2e-4)
    assert int(cache.filled) == L // 2 + 1


def test_a_prompt_longer_than_the_context_is_read_from_its_end():
    model, text = language_model(), tokens(2, 3 * L)
    variables = started(model, text[:, :L])
    logits, cache = jax.jit(lambda x: model.apply(variables, x, method="prefill"))(text)
    expected = jax.jit(model.apply)(variables, text[:, -(L // 2) :])[:, -1]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert int(cache.filled) == L // 2


def test_fused_attention_is_the_same_function(monkeypatch):
    """Logits and gradients; and it is used where there is no cache, once a layer."""
    used = []
    ready = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **k: used.append(k["is_causal"]) or ready(*a, **k))
    plain, fused, text = language_model(), language_model(fused=True), tokens(B, L)
    variables = started(plain, text)

    def loss(params, model):
        logits = model.apply({"params": params}, text, train=True)
        return jnp.square(logits).sum(), logits

    found = [jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(variables["params"], m) for m in (plain, fused)]
    for ours, theirs in zip(*(jax.tree.leaves(each) for each in found), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(jnp.abs(ours).max()))
    assert used == [True, True]
    cache = jax.eval_shape(lambda: plain.apply(variables, text[:, :3], method="prefill"))[1]
    jax.eval_shape(lambda cache: fused.apply(variables, text[:, 0], cache, method="decode"), cache)
    # full caches are read anew, in each layer
    assert used == [True] * 4


def test_the_future_changes_nothing():
    model, text = language_model(), tokens(B, L)
    variables = started(model, text)
    apply = jax.jit(model.apply)
    before, after = apply(variables, text), apply(variables, text.at[:, 5].set((text[:, 5] + 1) % V))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (jnp.abs(before[:, 5:] - after[:, 5:]).max(axis=(0, 2)) > 1e-3).all()


def test_tied_scores_are_products_with_the_tokens_vectors():
    model, text = language_model(), tokens(2, L)
    untied = dataclasses.replace(model, tied=False)
    ours, other = started(model, text), started(untied, text)
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(v)) for name, v in (("tied", ours), ("not", other))}
    assert count["not"] - count["tied"] == V * 16 and "scores" not in ours["params"]
    moved = {"params": {**ours["params"], "scores": {"kernel": ours["params"]["embedding"]["embedding"].T}}}

    def measured(model):
        return jax.jit(jax.value_and_grad(lambda p: jnp.square(model.apply({"params": p}, text)).sum()))

    (value, whole), (other, parts) = measured(model)(ours["params"]), measured(untied)(moved["params"])
    np.testing.assert_allclose(value, other, rtol=1e-5)
    expected = parts["embedding"]["embedding"] + parts["scores"]["kernel"].T
    np.testing.assert_allclose(whole["embedding"]["embedding"], expected, rtol=1e-3, atol=1e-2)


def test_initial_values_are_nanogpts():
    model = TransformerLM(65, 64, Shape(128, 4, use_bias=False), 4)
    params = jax.jit(lambda: model.init(KEY, jnp.zeros((2, 64), jnp.int32)))()["params"]
    block = params["blocks_3"]
    for leaf, std in (
        (params["embedding"]["embedding"], 0.02),
        (params["place"]["embedding"], 0.02),
        (block["attention"]["query_key_value"]["kernel"], 0.02),
        (block["feed_forward"]["hidden"]["kernel"], 0.02),
        (block["attention"]["output"]["kernel"], 0.02 / 8**0.5),
        (block["feed_forward"]["output"]["kernel"], 0.02 / 8**0.5),
    ):
        np.testing.assert_allclose(leaf.std(), std, rtol=0.04)
    assert not any("bias" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    # 4 x (128 x 384 + 128 x 128 + 2 x 128 x 512 + 2 x 128) + 65 x 128 + 64 x 128 + 128
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 804_096


def test_the_initial_loss_is_that_of_no_knowledge():
    model, text = language_model(), tokens(64, L)
    logits = jax.jit(model.apply)(jax.jit(lambda: model.init(KEY, text))(), text)
    target = jnp.roll(text, 1, axis=0)  # not the token itself, which tied scores favour
    nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1).mean()
    np.testing.assert_allclose(nats, np.log(V), rtol=0.02)


def test_pre_and_post_norm_put_the_normalisation_where_the_papers_do():
    x = np.random.default_rng(0).normal(size=(2, L, 16)).astype(np.float32)
    from jaxdl.models.transformer import Block

    def normal(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    for norm in ("pre", "post"):
        block = Block(dataclasses.replace(SHAPE, norm=norm), 4)
        variables = started(block, x)
        found, _ = jax.jit(block.apply)(variables, x)
        parts = (lambda m, x: m.attention(x)[0], lambda m, x: m.feed_forward(x))
        attention, feed_forward = (
            jax.jit(lambda x, part=part, block=block, variables=variables: block.apply(variables, x, method=part))
            for part in parts
        )
        if norm == "pre":
            y = x + attention(normal(x))
            y = y + feed_forward(normal(y))
        else:
            y = normal(x + attention(x))
            y = normal(y + feed_forward(y))
        np.testing.assert_allclose(found, y, atol=1e-4)
    with pytest.raises(ValueError, match="'both'"):
        Block(dataclasses.replace(SHAPE, norm="both"), 4).init(KEY, x)


@pytest.fixture(scope="module")
def translator():
    model = EncoderDecoder(9, V, 12, Shape(16, 2, positions="sinusoidal"), 2)
    source = tokens(B, 10, low=1, high=9) * (np.arange(10) < np.asarray([10, 7, 4, 1])[:, None])
    return model, started(model, source, tokens(B, 6)), source


def test_the_decoder_with_a_cache_equals_teacher_forcing(translator):
    model, variables, source = translator
    before = tokens(B, 6)
    whole = jax.jit(model.apply)(variables, source, before)
    memory = jax.jit(lambda x: model.apply(variables, x, method="read"))(source)
    carry = model.apply(variables, memory, 6, method="begin")
    decode = jax.jit(lambda token, carry: model.apply(variables, token, memory, carry, method="decode"))
    for t in range(6):
        logits, carry = decode(before[:, t], carry)
        np.testing.assert_allclose(logits, whole[:, t], atol=2e-4)


def test_padding_of_the_source_changes_nothing(translator):
    model, variables, source = translator
    before = tokens(B, 6)
    whole = jax.jit(model.apply)(variables, source, before)
    for row, length in ((1, 7), (3, 1)):
        alone = jax.jit(model.apply)(variables, source[row : row + 1, :length], before[row : row + 1])
        np.testing.assert_allclose(whole[row], alone[0], atol=2e-4)


def test_the_translator_reads_all_of_the_source_and_none_of_the_future(translator):
    model, variables, source = translator
    before = tokens(B, 6)
    apply = jax.jit(model.apply)
    whole = apply(variables, source, before)
    late = apply(variables, source, before.at[:, 4].set((before[:, 4] + 1) % V))
    np.testing.assert_array_equal(whole[:, :4], late[:, :4])
    last = apply(variables, source.at[0, 9].set(source[0, 9] % 8 + 1), before)
    assert float(jnp.abs(last[0, 0] - whole[0, 0]).max()) > 1e-3
    np.testing.assert_array_equal(last[1:], whole[1:])


def test_noise_belongs_to_the_row_in_whichever_half_it_lies():
    model, text = language_model(dropout=0.3), tokens(B, L)
    variables = started(model, text)

    def run(rows):
        with batch_context(rows=rows):
            return in_halves(lambda part: model.apply(variables, part, train=True, rngs={"noise": KEY}), text[rows])

    whole = jax.jit(run)(jnp.arange(B))
    np.testing.assert_allclose(jax.jit(run)(jnp.asarray([3, 1, 0, 2])), whole[jnp.asarray([3, 1, 0, 2])], atol=1e-5)
    np.testing.assert_allclose(jax.jit(run)(jnp.asarray([2])), whole[2:3], atol=1e-5)  # a batch of one has no halves
    same = jnp.broadcast_to(text[:1], text.shape)
    twins = jax.jit(lambda x: in_halves(lambda part: model.apply(variables, part, train=True, rngs={"noise": KEY}), x))(
        same
    )
    assert float(jnp.abs(twins[0] - twins[2]).max()) > 1e-3


def test_halves_are_the_whole():
    x = jnp.arange(12.0).reshape(6, 2)
    seen = []

    def double(part):
        seen.append(part.shape[0])
        return 2 * part

    np.testing.assert_array_equal(in_halves(double, x), 2 * x)
    np.testing.assert_array_equal(in_halves(double, x[:5]), 2 * x[:5])
    assert seen == ([3, 3, 5] if jax.default_backend() == "cpu" else [6, 5])
