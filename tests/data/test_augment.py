import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jaxdl.data.augment import Alternating, AugmentConfig, Transform, cutout, geometric, photometric
from jaxdl.data.source import Resident, Streamed
from jaxdl.data.warp import affine_matrix, affine_warp, crop_flip

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 9, 12, 2), dtype=np.uint8)


def keys_of(count, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(count))


@functools.partial(jax.jit, static_argnums=0)
def transformed(transform, batch, keys):
    return transform(batch, keys)


def test_warp_equals_scipy():
    angle = np.array([0.0, 0.3, -2.0, 0.1, 3.0, 0.0], np.float32)
    scale = np.array([1.0, 1.2, 0.7, 1.0, 0.9, 2.0], np.float32)
    shift = RNG.uniform(-4, 4, (6, 2)).astype(np.float32)
    matrix = affine_matrix(jnp.asarray(angle), jnp.asarray(scale), jnp.array([0, 1, 0, 1, 0, 0], bool))
    ours = np.asarray(affine_warp(jnp.asarray(IMAGES), matrix, jnp.asarray(shift)))
    centre = (np.array(IMAGES.shape[1:3]) - 1) / 2
    for i in range(6):
        a = np.asarray(matrix[i], np.float64)
        offset = centre - a @ (centre + shift[i])
        for c in range(2):
            expected = ndimage.affine_transform(
                IMAGES[i, :, :, c].astype(float), a, offset, order=1, mode="grid-constant", cval=0.0
            )
            np.testing.assert_allclose(ours[i, :, :, c], expected, atol=2e-2)


def test_a_quarter_turn_and_doubling_have_closed_forms():
    square = jnp.asarray(RNG.integers(0, 256, (1, 7, 7, 1), dtype=np.uint8))
    matrix = affine_matrix(jnp.array([jnp.pi / 2]), jnp.ones(1), jnp.zeros(1, bool))
    turned = affine_warp(square, matrix, jnp.zeros((1, 2)))
    np.testing.assert_allclose(turned[0, :, :, 0], np.rot90(square[0, :, :, 0]), atol=1e-2)
    matrix = affine_matrix(jnp.zeros(1), jnp.array([2.0]), jnp.zeros(1, bool))
    doubled = affine_warp(square, matrix, jnp.zeros((1, 2)))
    # every second output pixel of the doubled middle is an input pixel
    np.testing.assert_allclose(doubled[0, 1::2, 1::2, 0], square[0, 2:5, 2:5, 0], atol=1e-3)


@pytest.mark.parametrize(("edge", "mode"), [("zeros", "constant"), ("mirrored", "reflect")])
def test_crop_flip_equals_padding_and_slicing(edge, mode):
    shift = np.array([[0, 0], [2, -3], [-3, 3], [3, 1], [-1, -2], [0, 2]])
    flip = np.array([0, 1, 0, 1, 1, 0], bool)
    ours = crop_flip(jnp.asarray(IMAGES), jnp.asarray(shift), jnp.asarray(flip), 3, edge)
    assert ours.dtype == jnp.uint8
    padded = np.pad(IMAGES, ((0, 0), (3, 3), (3, 3), (0, 0)), mode)
    for i, (y, x) in enumerate(shift):
        expected = padded[i, 3 - y : 12 - y, 3 - x : 15 - x]
        np.testing.assert_array_equal(ours[i], expected[:, ::-1] if flip[i] else expected)


def test_random_crops_reach_every_offset_equally_often():
    images = np.zeros((4000, 5, 5, 1), np.uint8)
    images[:, 2, 2] = 255
    moved = np.asarray(geometric(jnp.asarray(images), keys_of(4000), AugmentConfig(crop=2)))
    counts = moved[..., 0].astype(int).sum(0) // 255
    assert counts.sum() == 4000 and stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_a_transform_crops_with_its_edge():
    images, keys = jnp.asarray(IMAGES), keys_of(len(IMAGES))
    transform = Transform(augment=AugmentConfig(crop=3), edge="mirrored")
    ours = transform({"image": images}, keys)["image"] * 255.0
    np.testing.assert_allclose(ours, geometric(images, keys, AugmentConfig(crop=3), "mirrored"), atol=1e-3)
    assert (np.asarray(ours) != np.asarray(geometric(images, keys, AugmentConfig(crop=3)))).any()


def test_flips_are_fair_and_exact_and_off_by_default():
    images = jnp.asarray(np.tile(IMAGES[:1], (2000, 1, 1, 1)))
    flipped = np.asarray(geometric(images, keys_of(2000), AugmentConfig(flip=True)))
    same = (flipped == IMAGES[0]).all((1, 2, 3))
    assert (flipped[~same] == IMAGES[0][:, ::-1]).all() and 900 < same.sum() < 1100
    assert geometric(images, keys_of(2000), AugmentConfig()) is images


def test_shift_rotation_and_scale_keep_to_their_limits():
    images = np.zeros((500, 21, 21, 1), np.float32)
    images[:, 8:13, 8:13] = 1.0
    grid = np.arange(21) - 10.0

    def moments(config):
        out = np.asarray(geometric(jnp.asarray(images), keys_of(500), config))[..., 0]
        mass = out.sum((1, 2))
        return mass, out.sum(2) @ grid / mass, out.sum(1) @ grid / mass

    mass, y, x = moments(AugmentConfig(shift=3.0))
    assert abs(np.stack([y, x])).max() <= 3.001 and np.stack([y, x]).max() > 2.8 and np.stack([y, x]).min() < -2.8
    assert abs(np.corrcoef(y, x)[0, 1]) < 0.15
    mass, y, x = moments(AugmentConfig(scale=0.3))
    np.testing.assert_allclose([y, x], 0.0, atol=1e-4)
    sides = np.sqrt(mass / 25.0)
    assert 0.65 < sides.min() < 0.75 and 1.25 < sides.max() < 1.35
    mass, y, x = moments(AugmentConfig(rotate=30.0))
    np.testing.assert_allclose(mass, 25.0, rtol=0.02)


def test_evaluation_is_only_scaling_and_standardisation():
    transform = Transform((0.2, 0.5), (0.3, 0.25))
    out = transform({"image": jnp.asarray(IMAGES), "label": jnp.arange(6)}, keys_of(6))
    expected = (IMAGES / 255.0 - [0.2, 0.5]) / [0.3, 0.25]
    assert out["image"].dtype == jnp.float32
    np.testing.assert_allclose(out["image"], expected, atol=1e-5)
    np.testing.assert_array_equal(out["label"], np.arange(6))


def test_contrast_keeps_the_mean_and_noise_has_its_deviation():
    images = jnp.asarray(RNG.uniform(0.3, 0.6, (400, 16, 16, 1)).astype(np.float32))
    centre = images.mean((1, 2, 3))
    changed = photometric(images, centre, keys_of(400), AugmentConfig(contrast=0.5))
    np.testing.assert_allclose(changed.mean((1, 2, 3)), centre, atol=1e-5)
    ratio = np.asarray(changed.std((1, 2, 3)) / images.std((1, 2, 3)))
    assert 0.5 <= ratio.min() < 0.52 and 1.48 < ratio.max() <= 1.5 + 1e-4
    noise = np.asarray(photometric(images, centre, keys_of(400), AugmentConfig(noise=0.1)) - images)
    assert abs(noise.std() - 0.1) < 1e-3 and abs(noise.mean()) < 2e-3
    assert stats.kstest(noise.ravel()[::7] / 0.1, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.25


def test_cutout_zeros_one_square_around_any_pixel():
    holes = np.asarray(cutout(jnp.ones((3000, 8, 8, 2)), keys_of(3000), 3)) == 0
    assert (holes[..., 0] == holes[..., 1]).all()
    rows, columns = holes[..., 0].any(2).sum(1), holes[..., 0].any(1).sum(1)
    assert (holes[..., 0].sum((1, 2)) == rows * columns).all()
    assert set(rows.tolist()) == {2, 3} == set(columns.tolist())
    # the upper left corner is hit by the centres (0..1, 0..1): 4 of 64
    assert abs(holes[:, 0, 0, 0].mean() - 4 / 64) < 0.02


def test_mixup_mixes_rows_2i_and_2i_plus_1():
    images = RNG.integers(0, 256, (4000, 2, 2, 1), dtype=np.uint8)
    batch = {"image": jnp.asarray(images), "label": jnp.arange(4000), "row": jnp.arange(4000)}
    transform = Transform((0.4,), (0.2,), AugmentConfig(mixup=0.4))
    out = transformed(transform, batch, keys_of(4000))
    clean = (images / 255.0 - 0.4) / 0.2
    w = np.asarray(out["mix"], np.float64)[:, None, None, None]
    partner = np.arange(4000) ^ 1
    np.testing.assert_allclose(out["image"], w * clean + (1 - w) * clean[partner], atol=1e-4)
    np.testing.assert_array_equal(out["label"], np.arange(4000))
    np.testing.assert_array_equal(out["label_mix"], partner)
    assert stats.kstest(np.asarray(out["mix"]), "beta", args=(0.4, 0.4)).pvalue > 1e-3


def test_each_row_depends_on_its_own_key_only():
    config = AugmentConfig(shift=1, rotate=20, scale=0.2, flip=True, crop=1, contrast=0.3, noise=0.1, cutout=3)
    transform = Transform((0.4, 0.5), (0.2, 0.3), config)
    whole = transformed(transform, {"image": jnp.asarray(IMAGES)}, keys_of(6))["image"]
    part = transformed(transform, {"image": jnp.asarray(IMAGES[3:5])}, keys_of(6)[3:5])["image"]
    np.testing.assert_allclose(part, whole[3:5], atol=1e-5)
    other = transformed(transform, {"image": jnp.asarray(IMAGES)}, keys_of(6, seed=1))["image"]
    assert not np.allclose(whole, other)


@pytest.mark.parametrize("name", ["shift", "rotate", "scale", "crop", "contrast", "noise", "cutout", "flip"])
def test_every_augmentation_changes_something(name):
    value = {"flip": True, "crop": 2, "cutout": 3, "shift": 2.0, "rotate": 20.0}.get(name, 0.3)
    plain = Transform()({"image": jnp.asarray(IMAGES)}, keys_of(6))["image"]
    out = Transform(augment=AugmentConfig(**{name: value}))({"image": jnp.asarray(IMAGES)}, keys_of(6))["image"]
    assert out.shape == plain.shape and not np.allclose(out, plain)


@pytest.mark.parametrize("shards", [1, 3])
def test_two_epochs_show_each_image_both_ways(shards):
    """Whatever part of a batch a device has, and the same whether the data are on the device or streamed."""
    images = np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 3, 2)
    arrays = {"image": images, "label": np.arange(7, dtype=np.int32)}
    transform, key = Alternating((0.0,), (1 / 255,), AugmentConfig()), jax.random.key(3)
    source = Resident.of(arrays, 3, shuffle=True, transform=transform)
    streams = Streamed.of(arrays, 3, shuffle=True, transform=transform)
    read = jax.jit(lambda source, step, shard: source.batch(step, key, shard, shards))
    seen: dict[int, list[bool]] = {}
    for step in range(14 // 3 + 1):
        parts = [read(source, step, shard) for shard in range(shards)]
        batch = {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}
        staged = streams.stage(step, 1, key)
        streamed = jax.jit(lambda staged, step: staged.batch(step, key))(staged, step)
        np.testing.assert_array_equal(batch["image"], streamed["image"])
        for image, label in zip(batch["image"], batch["label"], strict=True):
            straight = np.array_equal(image, images[label])
            assert straight or np.array_equal(image, images[label][:, ::-1])
            seen.setdefault(int(label), []).append(straight)
    assert all(sorted(ways[:2]) == [False, True] for ways in seen.values()) and len(seen) == 7
    assert len({ways[0] for ways in seen.values()}) == 2, "all images begin the same way"
