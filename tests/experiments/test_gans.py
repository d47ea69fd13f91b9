"""The GAN recipes around their task: the judge, new samples, what is refused."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gan_images, gans, recipe_files
from experiments.flags import config_from_leaves, leaves
from jaxdl.engine.judged import Judged
from jaxdl.errors import UserError
from jaxdl.objectives.frechet import Gaussian, frechet_distance


def built(name, **overrides):
    """A recipe's experiment with other settings."""
    recipe = recipe_files.load(name)
    small = {"model.generator": (8, 4), "model.discriminator": (4, 8)} if name == "dcgan" else {}
    return recipe.build(config_from_leaves(recipe.config, {**leaves(recipe.config), **small, **overrides}))


def fresh(experiment):
    """(task, canonical State [1, ...]) before training."""
    phase = experiment.phases[0]
    hyper = {name: jnp.float32(value) for name, value in phase.hyper.items()}
    state = jax.jit(lambda key: phase.task.init(key, hyper))(jax.random.key(0))
    return phase.task, jax.tree.map(lambda leaf: leaf[None], state)


@pytest.fixture(scope="module")
def digits():
    """An untrained DCGAN on the digits: (experiment, task, State)."""
    experiment = built("dcgan")
    return experiment, *fresh(experiment)


def test_the_judge_measures_samples_and_the_floor(digits):
    experiment, task, state = digits
    run = Judged(experiment, state, 3)
    found = experiment.judge(run)
    assert set(found) == {"test/fd_lenet", "test/fd_lenet_floor", "test/confident", "test/classes"}
    assert found["test/fd_lenet"] > 5 * found["test/fd_lenet_floor"] > 0
    assert 0 <= found["test/confident"] <= 1 and found["test/classes"] <= 10
    images = experiment.final["test"].arrays["image"].astype(jnp.float32) / 255.0
    noise = np.asarray(jax.random.normal(run.key, (360, task.latent)))
    classifier = gan_images.load_pinned("digits")
    features = [
        classifier(x)["features"] for x in (images, task.samples(jax.tree.map(lambda leaf: leaf[0], state), noise))
    ]
    wanted = frechet_distance(*(Gaussian.of(each) for each in features))
    assert found["test/fd_lenet"] == pytest.approx(wanted, rel=1e-3)


def test_a_shortened_experiment_is_judged_on_fewer_images(digits):
    experiment, _, state = digits
    short = dataclasses.replace(experiment, final={"test": experiment.final["test"].replace(size=100)})
    assert np.isfinite(list(experiment.judge(Judged(short, state, 0)).values())).all()


def test_samples_are_drawn_from_the_seed_and_written(digits, tmp_path):
    experiment, _, state = digits
    view = types.SimpleNamespace(experiment=experiment, first=1, state=lambda index: {1: state}[index])
    said, found = [], []
    for seed in (1, 1, 2):
        request = types.SimpleNamespace(count=20, seed=seed, folder=tmp_path, emit=said.append)
        experiment.sample(view, request)
        found.append(np.load(tmp_path / "samples.npy"))
    assert found[0].shape == (20, 8, 8, 1) and (tmp_path / "samples.png").stat().st_size > 1000
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert "20 samples" in said[0] and "samples.png" in said[0]


def test_a_picture_gets_a_label_and_the_probability_of_being_real(digits):
    experiment, task, state = digits
    one = jax.tree.map(lambda leaf: leaf[0], state)
    batch = experiment.final["test"].take([0, 1])
    outputs = jax.jit(task.predict)(one, batch)
    found = experiment.show({name: np.asarray(value)[0] for name, value in outputs.items()})
    assert found["label"] == str(int(batch["label"][0])) and found["confidence"] > 0.5
    assert 0 < found["real"] < 1


def test_points_are_drawn_and_written(tmp_path):
    experiment = built("gan_mixture", **{"model.generator": (8,), "model.discriminator": (8,)})
    _, state = fresh(experiment)
    view = types.SimpleNamespace(experiment=experiment, first=1, state=lambda index: {1: state}[index])
    experiment.sample(view, types.SimpleNamespace(count=7, seed=0, folder=tmp_path, emit=lambda text: None))
    assert np.load(tmp_path / "samples.npy").shape == (7, 2) and (tmp_path / "samples.png").exists()


def test_great_circles_start_and_end_at_the_vectors():
    ends = np.random.default_rng(0).normal(size=(4, 6))
    path = gan_images.great_circles(ends, 5)
    np.testing.assert_allclose(path[[0, 4, 5, 9]], ends, rtol=1e-5)
    unit = ends / np.linalg.norm(ends, axis=1, keepdims=True)
    middle = gan_images.great_circles(unit, 3)[1]
    np.testing.assert_allclose(middle, (unit[0] + unit[1]) / np.linalg.norm(unit[0] + unit[1]), rtol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "setting", "said"),
    [
        ("gan_mixture", {"optimizer.name": "lbfgs"}, "another --optimizer.name than lbfgs"),
        ("dcgan", {"data.name": "cifar10"}, "--data.name must be one of mnist, digits"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(recipe, setting, said):
    with pytest.raises(UserError, match=said) as error:
        built(recipe, **setting)
    assert "\n" not in str(error.value)


def test_the_penalty_is_a_hyper_parameter_only_where_it_is_paid():
    config = recipe_files.load("gan_mixture").config
    assert "gradient_penalty" in gans.hyper(config.optimizer, dataclasses.replace(config.gan, gradient_penalty=0.1))
    assert "gradient_penalty" not in gans.hyper(config.optimizer, dataclasses.replace(config.gan, gradient_penalty=0.0))


def test_check_leaves_out_what_a_game_has_not(monkeypatch, capsys):
    from experiments import checks
    from experiments.session import open_recipe

    monkeypatch.setattr(checks, "STEPS", 2)
    recipe = recipe_files.load("gan_mixture")
    checks.run_checks(open_recipe(recipe, recipe.config).experiment, seed=0)
    printed = capsys.readouterr().out
    assert "left out  gradients" in printed and "left out  one batch" in printed
