"""The ring of Gaussians and what is counted on it, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.data.mixtures import GaussianRing, mode_coverage, nearest_mode, ring_centres

KEY = jax.random.key(3)


def test_points_have_the_moments_of_their_mode():
    ring = GaussianRing(8000, modes=5, radius=3.0, sigma=0.1)
    batch = jax.jit(ring.batch)(7, KEY)
    x, mode = np.asarray(batch["x"]), np.asarray(batch["mode"])
    np.testing.assert_allclose(np.linalg.norm(ring.centres, axis=1), 3.0, rtol=1e-6)
    assert np.abs(np.bincount(mode, minlength=5) - 1600).max() < 4 * np.sqrt(1600)
    for k in range(5):
        of_mode = x[mode == k]
        np.testing.assert_allclose(of_mode.mean(0), ring.centres[k], atol=0.015)
        np.testing.assert_allclose(np.cov(of_mode.T), 0.01 * np.eye(2), atol=0.0015)


def test_shards_are_parts_of_the_whole_and_steps_differ():
    ring = GaussianRing(16)
    draw = jax.jit(ring.batch, static_argnames="shards")
    whole = draw(3, KEY)
    parts = [draw(3, KEY, shard, shards=4) for shard in range(4)]
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    assert not np.array_equal(draw(4, KEY)["x"], whole["x"])
    assert np.asarray(whole["mask"]).all()


def test_evaluation_ends_after_its_points():
    ring = GaussianRing(16, size=40)
    assert ring.num_batches == 3
    masks = [np.asarray(ring.batch(step, KEY)["mask"]) for step in range(3)]
    assert [mask.sum() for mask in masks] == [16, 16, 8]


def test_modes_are_counted_as_numpy_counts_them():
    centres = ring_centres(8, 2.0)
    rng = np.random.default_rng(0)
    points = np.concatenate([centres[k] + 0.08 * rng.normal(size=(50, 2)) for k in (0, 1, 2, 5)] + [np.zeros((3, 2))])
    distance = np.sqrt(((points[:, None] - centres[None]) ** 2).sum(-1))
    mode, nearest = nearest_mode(jnp.asarray(points), centres)
    np.testing.assert_array_equal(mode[:200], distance.argmin(1)[:200])
    np.testing.assert_allclose(nearest, distance.min(1), atol=1e-5)
    values, groups = mode_coverage(jnp.asarray(points), centres, 0.05)
    good = distance.min(1) <= 0.15
    np.testing.assert_array_equal(values["within_3_sigma"], good)
    wanted = [(good & (distance.argmin(1) == k)).sum() for k in range(8)]
    np.testing.assert_array_equal(groups.sum(0), wanted)
    assert 0 < good.mean() < 1 and wanted[3] == 0
