"""airbench_cifar10 against the published network in PyTorch, update by update; what `bench` says of the two."""

import dataclasses
import pathlib
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import laws

from experiments import bench_torch_airbench
from experiments.bench_airbench import described, no_worse
from experiments.bench_torch_airbench import MOMENTUM, Airbench
from experiments.recipes import airbench_cifar10 as recipe
from jaxdl.errors import UserError
from jaxdl.models.airbench import Airbench as Network
from jaxdl.models.airbench import whitening_kernel
from jaxdl.optimizers import hyper_parameters, make_optimizer, schedule_shape
from jaxdl.tasks.classification import classification
from jaxdl.tasks.lookahead import Lookahead
from jaxdl.tasks.supervised import NET

WIDTHS, BATCH, COUNT, STEPS = (6, 4, 4), 8, 24, 15
LARGE_RATE, LARGE_DECAY = 150.0, 3.0


def test_lookahead_in_numpy():
    """Slow weights move after every third update only, and the fast ones go on from there."""
    lookahead, rng = Lookahead(3, 0.9, 8), np.random.default_rng(0)
    slow = expected = rng.normal(size=4).astype(np.float32)
    fast = jnp.asarray(slow)
    moved = jax.jit(lookahead)
    for made in range(1, 9):
        fast = fast + 1.0
        before = np.asarray(fast)
        slow, fast = moved(slow, fast, jnp.int32(made - 1))
        if made % 3 == 0:
            share = 0.9**3 * (made / 8) ** 3
            expected = share * expected + (1 - share) * before
            np.testing.assert_allclose(fast, expected, rtol=1e-6)
        else:
            np.testing.assert_array_equal(fast, before)
        np.testing.assert_allclose(slow, expected, rtol=1e-6)


class Plain(Airbench):
    """The published training without augmentation, at a constant rate (PyTorch's rule is ours only then)."""

    def _cropped(self, rows, offsets, mirrored):
        return self.images[rows]

    def _optimizer(self, net):
        optimizer, _ = super()._optimizer(net)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        return optimizer, SimpleNamespace(step=lambda: None)


def test_its_updates_are_those_of_the_published_network(one_thread, monkeypatch):
    """Decays, scaled biases, Nesterov momentum, the frozen whitening bias and Lookahead, for 15 updates."""
    pytest.importorskip("torch", reason="PyTorch is the oracle of its own network: pip install jaxdl[oracles]")
    rng = np.random.default_rng(0)
    # so that few updates of small batches move everything, decay and the biases' 64 too
    monkeypatch.setattr(bench_torch_airbench, "RATE", LARGE_RATE)
    monkeypatch.setattr(bench_torch_airbench, "DECAY", LARGE_DECAY)
    images, labels = rng.integers(0, 256, (COUNT, 32, 32, 3), np.uint8), rng.integers(0, 10, COUNT)
    data, mean, std = {"image": images, "label": labels}, (0.5, 0.4, 0.6), (0.25, 0.2, 0.3)
    theirs = Plain(data, data, mean, std, STEPS, "cpu", False, WIDTHS, BATCH)
    kept = {}
    whiten = theirs._whiten

    def whitened(net):
        whiten(net)
        # what is zero cannot decay
        for module in (net.whiten, *(group.norm2 for group in net.groups)):
            module.bias.data.uniform_(1.0, 2.0)
        kept["first"] = {name: value.numpy().copy() for name, value in net.state_dict().items()}
        kept["net"] = net

    monkeypatch.setattr(theirs, "_whiten", whitened)
    theirs.run(3)
    last = {name: value.numpy() for name, value in kept["net"].state_dict().items()}
    shown = ((images / 255.0 - mean) / std).astype(np.float32)
    ours = whitening_kernel(shown)
    np.testing.assert_allclose(np.abs(ours.transpose(3, 2, 0, 1)), np.abs(kept["first"]["whiten.weight"]), atol=2e-3)

    config = recipe.Config()
    optimizer = dataclasses.replace(
        config.optimizer,
        schedule="constant",
        learning_rate=LARGE_RATE / (1 + 1 / (1 - MOMENTUM)) * BATCH / 1024,
        l2=LARGE_DECAY / LARGE_RATE,
    )
    config = dataclasses.replace(
        config,
        optimizer=optimizer,
        train=dataclasses.replace(config.train, steps=STEPS),
        pace=dataclasses.replace(config.pace, whitening_steps=3 * (COUNT // BATCH)),
    )
    task = classification(Network(10, WIDTHS), make_optimizer(optimizer, STEPS), (32, 32, 3))
    task = recipe.paced(task, config)
    hyper = {name: jnp.float32(value) for name, value in hyper_parameters(optimizer).items()}
    state = task.init(jax.random.key(0), hyper | {"label_smoothing": jnp.float32(0.2)})
    net = state.nets[NET]
    params, stats = from_torch(kept["first"]), {**net.stats, "whitening": kernel(kept["first"]["whiten.weight"])}
    state = state.replace(nets={NET: net.holding(params, stats)})
    step = jax.jit(task.step)
    for number, rows in enumerate(order(3)):
        batch = {"image": jnp.asarray(shown[rows]), "label": jnp.asarray(labels[rows], jnp.int32)}
        batch |= {"mask": jnp.ones(BATCH), "row": jnp.arange(BATCH, dtype=jnp.int32)}
        state, _ = step(state, batch, jax.random.key(1))
        state = state.replace(step=jnp.int32(number + 1))
    found, wanted = task.for_evaluation(state).nets[NET].params, from_torch(last)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for ours, other, before in zip(*map(jax.tree.leaves, (found, wanted, params)), strict=True):
        moved = float(np.abs(other - before).max())
        assert moved > 1e-3
        np.testing.assert_allclose(ours, other, atol=0.02 * moved)


def kernel(weight):
    return jnp.asarray(weight.transpose(2, 3, 1, 0))


def from_torch(values):
    """PyTorch's parameters under our names."""
    found = {
        "whitening_offset": jnp.asarray(values["whiten.bias"])[None],
        "Dense_0": {"kernel": jnp.asarray(values["head.weight"].T)},
    }
    for group in range(3):
        for part in (1, 2):
            number = 2 * group + part - 1
            found[f"Conv_{number}"] = {"kernel": kernel(values[f"groups.{group}.conv{part}.weight"])}
            found[f"_Norm_{number}"] = {"offset": jnp.asarray(values[f"groups.{group}.norm{part}.bias"])[None] / 8.0}
    return found


def order(seed):
    """The rows of each batch, as the PyTorch class draws them."""
    rng, batches = np.random.default_rng(seed), []
    rng.random(COUNT)
    while len(batches) < STEPS:
        rows = rng.permutation(COUNT)
        rng.integers(0, 5, (COUNT, 2))
        batches += [rows[first : first + BATCH] for first in range(0, COUNT, BATCH)]
    return batches[:STEPS]


def test_what_was_measured_names_the_base_line():
    ours, theirs = [0.90, 0.91], [0.906, 0.908]
    text = described("cifar10-jpeg75", ours, True, [2.2, 2.4], theirs)
    assert text.endswith("to 90.50 % on the test split; the published network in PyTorch: 2.30 s, 90.70 %")
    assert described("cifar10", ours, False, [], []).endswith(
        "to 90.50 %, which is too few for a bar, on the test split"
    )


def test_a_difference_within_its_interval_is_none():
    assert no_worse([0.91], [0.90]) and not no_worse([0.90], [0.91])
    assert no_worse([0.900, 0.905, 0.902], [0.901, 0.906, 0.903])
    assert not no_worse([0.900, 0.901, 0.902], [0.910, 0.911, 0.912])


def test_pytorchs_images_are_cropped_and_mirrored_as_published():
    """Windows of the image with two mirrored pixels around it, drawn offsets, mirrored where asked."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of its own network: pip install jaxdl[oracles]")
    rng = np.random.default_rng(1)
    data = {"image": rng.integers(0, 256, (5, 32, 32, 3), np.uint8), "label": rng.integers(0, 10, 5)}
    theirs = Airbench(data, data, (0.0,) * 3, (1.0,) * 3, STEPS, "cpu", False, WIDTHS, BATCH)
    rows, offsets = torch.tensor([3, 0, 4]), torch.tensor([[0, 4], [2, 2], [3, 1]])
    found = theirs._cropped(rows, offsets, torch.tensor([False, True, True])).permute(0, 2, 3, 1).numpy()
    padded = np.pad(data["image"] / 255.0, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    for image, row, (down, across), mirrored in zip(
        found, (3, 0, 4), offsets.tolist(), (False, True, True), strict=True
    ):
        expected = padded[row, down : down + 32, across : across + 32]
        np.testing.assert_allclose(image, expected[:, ::-1] if mirrored else expected, atol=1e-6)


def test_the_variants_are_those_of_the_paper():
    """Rates and decays per 1024 examples, and how many epochs the updates are."""
    for name, (widths, rate, decay, epochs, images) in {
        "": ((64, 256, 256), 11.5, 0.0153, 9.9, 45_000),
        "all": ((64, 256, 256), 11.5, 0.0153, 9.9, 50_000),
        "wide": ((128, 384, 384), 10.0, 0.012, 15.0, 50_000),
    }.items():
        config = recipe.VARIANTS[name]() if name else recipe.Config()
        assert config.model.widths == widths
        assert config.optimizer.learning_rate == pytest.approx(rate / (1 + 1 / 0.15), rel=1e-3)
        assert config.optimizer.l2 == pytest.approx(decay / rate, rel=1e-2)
        assert config.train.steps * 1024 / images == pytest.approx(epochs, abs=0.01)
        assert config.pace.whitening_steps * 1024 / images == pytest.approx(3.0, abs=0.02)
        assert (config.pace.split == "train+validation") == (images == 50_000)


def test_lookahead_and_a_moving_average_exclude_each_other():
    config = recipe.Config()
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, ema_decay=0.9))
    with pytest.raises(UserError, match="cannot both be judged"):
        recipe.build(config)


def test_pytorchs_rates_are_our_schedule():
    pytest.importorskip("torch", reason="PyTorch is the oracle of its own network: pip install jaxdl[oracles]")
    data = {"image": np.zeros((2, 32, 32, 3), np.uint8), "label": np.zeros(2)}
    theirs = Airbench(data, data, (0.0,) * 3, (1.0,) * 3, 435, "cpu", False, WIDTHS, BATCH)
    _, schedule = theirs._optimizer(bench_torch_airbench.network(WIDTHS))
    ours = schedule_shape(recipe.Config().optimizer, 435)
    for step in (0, 1, 50, 99, 100, 101, 300, 434):
        assert [rate(step) for rate in schedule.lr_lambdas] == pytest.approx(
            [float(ours(jnp.int32(step)))] * 2, abs=1e-5
        )


def test_what_the_recipe_builds(monkeypatch):
    if not (laws.SHARED / "cifar10").exists():
        pytest.skip(f"cifar10 is not in {laws.SHARED}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(laws.SHARED))
    config = recipe.VARIANTS["all"]()
    experiment = recipe.build(dataclasses.replace(config, model=dataclasses.replace(config.model, widths=(4,))))
    (phase,) = experiment.phases
    assert phase.source.transform.edge == "mirrored" and phase.source.size == 50_000
    assert phase.task.lookahead == Lookahead(5, 0.95, 483) and not experiment.steps_may_grow


@pytest.mark.parametrize("changes", [{"flip": True}, {"mixup": 0.2}])
def test_what_would_mirror_images_twice_or_wrongly_is_refused(changes):
    config = recipe.Config()
    config = dataclasses.replace(config, augment=dataclasses.replace(config.augment, **changes))
    with pytest.raises(UserError, match=f"leave --augment.{next(iter(changes))} out"):
        recipe.build(config)
