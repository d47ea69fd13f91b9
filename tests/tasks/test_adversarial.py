"""The game of two networks: who is updated by what, the moments that batch norm keeps, k steps, and what is kept."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data.mixtures import GaussianRing, mode_coverage
from jaxdl.models.gan import ConvDiscriminator, ConvGenerator, MLPDiscriminator, MLPGenerator
from jaxdl.nn.normalization import BatchNorm
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.tasks.adversarial import DISCRIMINATOR, GENERATOR, PREVIEW_STEPS, Adversarial, Sampling, shown_previews

KEY = jax.random.key(1)
RING = GaussianRing(12)
BATCH = jax.jit(RING.batch)(0, KEY)
SGD = OptimizerConfig(name="sgd", learning_rate=0.1)
OPTIMIZER = make_optimizer(SGD, 10)
HYPER = {**hyper_parameters(SGD), "discriminator_rate": 2.0, "real_smoothing": 0.1, "gradient_penalty": 0.5}


class NormedGenerator(nn.Module):
    """Two dense layers with batch norm between."""

    @nn.compact
    def __call__(self, z, train):
        return nn.Dense(2)(nn.relu(BatchNorm()(nn.Dense(6)(z), train)))


class NormedDiscriminator(nn.Module):
    """Likewise, to a logit."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(1)(nn.relu(BatchNorm()(nn.Dense(5)(x), train)))[:, 0]


def game(**changes):
    fields = {"latent": 3, "inputs": "x", "previews": 4}
    return Adversarial(NormedGenerator(), NormedDiscriminator(), OPTIMIZER, (2,), **{**fields, **changes})


def start(task):
    """Its State after one step's time, compiled as one program."""
    hyper = {name: jnp.float32(value) for name, value in HYPER.items()}
    return jax.jit(task.init)(jax.random.key(0), hyper).replace(step=jnp.int32(1))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_discriminator_update_leaves_the_generator_untouched_and_the_other_way_round():
    task = game()
    state, batch = start(task), BATCH
    samples = jnp.ones((12, 2))
    after, metrics = jax.jit(task.update_discriminator)(state, batch, samples)
    assert same(after.nets[GENERATOR], state.nets[GENERATOR])
    assert not same(after.nets[DISCRIMINATOR].params, state.nets[DISCRIMINATOR].params)
    assert not same(after.nets[DISCRIMINATOR].stats, state.nets[DISCRIMINATOR].stats)
    net = state.nets[GENERATOR]
    after = jax.jit(task.update_generator)(state, jax.tree.map(jnp.ones_like, net.params), net.stats)
    assert same(after.nets[DISCRIMINATOR], state.nets[DISCRIMINATOR])
    assert not same(after.nets[GENERATOR].params, net.params)
    assert set(metrics) == {"discriminator_loss", "real_probability", "fake_probability"}


def test_a_discriminator_without_a_learning_rate_does_not_move_in_a_whole_step():
    """The generator's gradient passes through it and leaves nothing behind."""
    task = game()
    state = start(task)
    state = state.replace(hyper={**state.hyper, "discriminator_rate": jnp.float32(0.0)})
    after, _ = jax.jit(task.step)(state, BATCH, KEY)
    assert same(after.nets[DISCRIMINATOR].params, state.nets[DISCRIMINATOR].params)
    assert not same(after.nets[GENERATOR].params, state.nets[GENERATOR].params)


def by_hand(task, state, batch, key, *, simultaneous, penalty):
    """One step of plain SGD written out with the models' own apply."""
    generator, discriminator = state.nets[GENERATOR], state.nets[DISCRIMINATOR]
    keys = [jax.random.fold_in(key, row) for row in range(12)]
    z = jnp.stack([jax.random.normal(k, (task.latent,)) for k in keys])

    def generate(params):
        return task.generator.apply(
            {"params": params, "batch_stats": generator.stats}, z, True, mutable=["batch_stats"]
        )

    def judge(params, stats, x):
        return task.discriminator.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])

    fake, new_generator_stats = generate(generator.params)

    def discriminator_loss(params):
        real, stats = judge(params, discriminator.stats, batch["x"])
        false, stats = judge(params, stats["batch_stats"], fake)
        p, q = nn.sigmoid(real), nn.sigmoid(false)
        loss = -(0.9 * jnp.log(p) + 0.1 * jnp.log(1 - p)).mean() - jnp.log(1 - q).mean()
        if penalty:
            by_x = jax.grad(lambda x: judge(params, discriminator.stats, x)[0].sum())(batch["x"])
            loss = loss + 0.25 * (by_x**2).sum(1).mean()
        return loss, stats["batch_stats"]

    grads, discriminator_stats = jax.grad(discriminator_loss, has_aux=True)(discriminator.params)
    stepped = jax.tree.map(lambda p, g: p - 0.2 * g, discriminator.params, grads)
    opponent, stats = (discriminator.params, discriminator.stats) if simultaneous else (stepped, discriminator_stats)

    def generator_loss(params):
        return -jnp.log(nn.sigmoid(judge(opponent, stats, generate(params)[0])[0])).mean()

    by_params = jax.grad(generator_loss)(generator.params)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, generator.params, by_params)
    return moved, new_generator_stats["batch_stats"], stepped, discriminator_stats


@pytest.mark.parametrize(("simultaneous", "penalty"), [(False, True), (True, False)])
def test_a_step_is_the_one_written_out(simultaneous, penalty):
    task = game(simultaneous=simultaneous, penalty=penalty)
    state, batch = start(task), BATCH
    after, metrics = jax.jit(task.step)(state, batch, KEY)
    written_out = functools.partial(by_hand, task, simultaneous=simultaneous, penalty=penalty)
    wanted = jax.jit(written_out)(state, batch, KEY)
    nets = after.nets
    found = (nets[GENERATOR].params, nets[GENERATOR].stats, nets[DISCRIMINATOR].params, nets[DISCRIMINATOR].stats)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    assert ("gradient_penalty" in metrics) == penalty


@pytest.mark.parametrize(("step", "paid"), [(6, True), (7, False)])
def test_a_lazy_penalty_is_paid_in_every_third_step_and_threefold(step, paid):
    state = start(game()).replace(step=jnp.int32(step))
    dear = state.replace(hyper={**state.hyper, "gradient_penalty": 3 * state.hyper["gradient_penalty"]})
    after, metrics = jax.jit(game(penalty=True, penalty_every=3).step)(state, BATCH, KEY)
    wanted, measured = jax.jit(game(penalty=paid).step)(dear, BATCH, KEY)
    for a, b in zip(jax.tree.leaves(after.nets), jax.tree.leaves(wanted.nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert float(metrics["gradient_penalty"].count) == (12 if paid else 0)
    if paid:
        total = float(measured["gradient_penalty"].total)
        assert float(metrics["gradient_penalty"].total) == pytest.approx(total, rel=1e-5)


def test_k_steps_take_k_batches_and_only_the_last_meets_the_generator():
    """A batch of 3·B rows is three batches: row r in number r mod 3; samples are drawn by row."""
    task, one = game(discriminator_steps=3), game()
    state = start(task)
    parts = [{name: leaf[k::3] for name, leaf in BATCH.items()} for k in range(3)]
    after, _ = jax.jit(task.step)(state, BATCH, KEY)

    @jax.jit
    def discriminator_only(current, part):
        net = current.nets[GENERATOR]
        samples, _ = one._generate(net.params, net.stats, part, KEY)
        return one.update_discriminator(current, part, samples)[0]

    current = discriminator_only(discriminator_only(state, parts[0]), parts[1])
    wanted, _ = jax.jit(one.step)(current, parts[2], KEY)
    for a, b in zip(jax.tree.leaves(after.nets), jax.tree.leaves(wanted.nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_masked_rows_do_not_count():
    task = game()
    state, batch = start(task), BATCH
    poisoned = {**batch, "x": batch["x"].at[8:].set(1e4), "mask": batch["mask"].at[8:].set(0.0)}
    kept = {name: leaf[:8] for name, leaf in batch.items()}
    left, right = (jax.jit(task.step)(state, each, KEY) for each in (poisoned, kept))
    for a, b in zip(jax.tree.leaves(left[1]), jax.tree.leaves(right[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(left[0].nets), jax.tree.leaves(right[0].nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_judged_generator_is_the_average():
    task = game(ema_decay=0.9)
    state = start(task).replace(step=jnp.int32(0))
    seen, step = [], jax.jit(task.step)
    for k in range(3):
        state, _ = step(state, {**BATCH, "x": (k + 1.0) * BATCH["x"]}, KEY)
        state = state.replace(step=state.step + 1)
        seen.append(state.nets[GENERATOR].params["Dense_0"]["kernel"])
    weights = np.array([0.81, 0.9, 1.0])
    wanted = np.tensordot(weights / weights.sum(), np.stack(seen), 1)
    judged = task.for_evaluation(state)
    np.testing.assert_allclose(judged.nets[GENERATOR].params["Dense_0"]["kernel"], wanted, rtol=1e-4, atol=1e-6)
    assert state.nets[DISCRIMINATOR].ema is None
    assert same(task.for_evaluation(judged), judged)


def test_samples_are_kept_at_their_steps_and_only_there():
    task = game()
    state = start(task)
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(jax.random.split(jax.random.key(0), 4))
    found, one_step = {}, jax.jit(task.step)
    for step in (0, 1, PREVIEW_STEPS[1]):
        current = state.replace(step=jnp.int32(step))
        found[step] = one_step(current, BATCH, KEY)[0].extra["previews"]
    np.testing.assert_allclose(found[0][0], task.samples(state, noise), rtol=1e-5, atol=1e-6)
    assert not found[0][1:].any() and not found[1].any()
    assert found[PREVIEW_STEPS[1]][1].any() and not found[PREVIEW_STEPS[1]][0].any()
    stacked = jax.tree.map(lambda leaf: leaf[None], dataclasses.replace(state, extra={"previews": found[0]}))
    assert [step for step, _ in shown_previews(stacked, 65)] == [0, 64]


def test_evaluation_counts_groups_over_the_whole_batch():
    centres = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    task = game(measure=lambda points: mode_coverage(points, centres, 10.0))
    state, batch = start(task), BATCH
    _, metrics = jax.jit(task.evaluate)(state, batch, KEY)
    z = jnp.stack([jax.random.normal(jax.random.fold_in(KEY, row), (3,)) for row in range(12)])
    points = np.asarray(task.samples(state, z))
    nearest = ((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
    counts = np.bincount(nearest, minlength=3)
    assert float(metrics["modes"].total) == (counts >= 0.1 * 12 / 3).sum()
    assert float(metrics["modes"].count) == 1.0 and float(metrics["within_3_sigma"].total) == 12
    assert float(metrics["real_probability"].count) == 12


def test_sampling_is_for_collect():
    task = game()
    state, z = start(task), jnp.ones((5, 3))
    sampling = Sampling(task, lambda x: {"sum": x.sum(-1)})
    found = sampling.predict(state, {"z": z})
    np.testing.assert_allclose(found["samples"], task.samples(state, z))
    np.testing.assert_allclose(found["sum"], found["samples"].sum(-1))
    np.testing.assert_allclose(sampling.predict(state, {"x": z[:, :2]})["sum"], 2.0)


def test_dcgan_makes_and_judges_images_of_the_right_size():
    image, features = (12, 8, 3), (5, 4)
    generator, discriminator = ConvGenerator(image, features), ConvDiscriminator(features[::-1])
    z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7)), jnp.float32)
    images, variables = jax.jit(lambda z: generator.init_with_output(jax.random.key(0), z, True))(z)
    assert images.shape == (3, *image) and 0 <= float(images.min()) <= float(images.max()) <= 1
    sizes = 7 * 3 * 2 * features[0] + 16 * features[0] * features[1] + 16 * features[1] * image[2] + image[2]
    norms = 2 * (features[0] + features[1])
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == sizes + norms
    logits = jax.jit(lambda x: discriminator.init_with_output(jax.random.key(0), x, False)[0])(images)
    assert logits.shape == (3,)


def test_hidden_layers_have_their_parameters():
    generator, discriminator = ConvGenerator((8, 8, 1), (3, 2), (5, 6)), ConvDiscriminator((2, 3), (7,))
    made = jax.jit(lambda z: generator.init(jax.random.key(0), z))(jnp.zeros((2, 4)))["params"]
    maps, norms = 16 * 3 * 2 + 16 * 2 + 1, 2 * (5 + 6 + 3 + 2)
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == 4 * 5 + 5 * 6 + 6 * 2 * 2 * 3 + maps + norms
    judge = jax.jit(lambda x: discriminator.init(jax.random.key(0), x))(jnp.zeros((2, 8, 8, 1)))["params"]
    maps, norms = 16 * 2 + 2 + 16 * 2 * 3, 2 * (3 + 7)
    assert sum(leaf.size for leaf in jax.tree.leaves(judge)) == maps + 2 * 2 * 3 * 7 + (7 + 1) + norms


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_only_hidden_layers_compare_the_corners_of_an_image(hidden):
    """Without them the logit is a sum over patches: what two far changes do together is what each does alone."""
    model = ConvDiscriminator((4, 4), hidden)
    blank, left, right, both = (np.full((28, 28, 1), 0.5, np.float32) for _ in range(4))
    for image in (left, both):
        image[:5, :5] = 1.0
    for image in (right, both):
        image[-5:, -5:] = 1.0
    images = jnp.stack([blank, left, right, both])
    logits = jax.jit(lambda x: model.init_with_output(jax.random.key(0), x)[0])(images)
    together, alone = logits[3] - logits[0], logits[1] + logits[2] - 2 * logits[0]
    scale = float(jnp.abs(logits[1:] - logits[0]).max())
    assert (abs(float(together - alone)) > 1e-2 * scale) == bool(hidden)


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="sides that 4 divides"):
        ConvGenerator((30, 28, 1)).init(jax.random.key(0), jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="sides that 4 divides"):
        ConvDiscriminator().init(jax.random.key(0), jnp.zeros((1, 28, 30, 1)))


def test_mlps_map_noise_to_points_to_logits():
    points, variables = MLPGenerator(2, (8,)).init_with_output(jax.random.key(0), jnp.zeros((3, 4)))
    assert points.shape == (3, 2)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 4 * 8 + 8 + 8 * 2 + 2
    assert MLPDiscriminator((8,)).init_with_output(jax.random.key(0), points)[0].shape == (3,)
