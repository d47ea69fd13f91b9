"""Games whose samples are images: judged by a pinned classifier, with their report, predictions and samples."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from experiments.gans import adversarial, described, draw, from_noise, hyper, write_samples
from experiments.images import Images, open_images, sizes
from jaxdl.data.augment import AugmentConfig
from jaxdl.engine.experiment import Experiment, Phase
from jaxdl.errors import UserError
from jaxdl.models.pinned import CONFIDENT, PINNED, PinnedClassifier, confidence, load_pinned
from jaxdl.objectives.frechet import Gaussian, frechet_distance
from jaxdl.optimizers import depends_on_total_steps
from jaxdl.optimizers import describe as describe_optimizer
from jaxdl.tasks.adversarial import COVERED_FROM, Adversarial, shown_previews

# samples that latent arithmetic is done with, and images of a calibration row
_LATENT_SAMPLES, _WALKS, _WALK_STEPS = 4000, 6, 10


def image_game(
    config: Any, generator: Callable[[tuple], nn.Module], discriminator: Callable[[tuple], nn.Module]
) -> Experiment:
    """One phase of training on the images of a data set that has a pinned classifier.

    Args:
      config: a recipe's, with `data`, `gan`, `optimizer` and `train`.
      generator, discriminator: (H, W, C) -> model, see `Adversarial`; images are in 0 ... 1.

    Raises:
      UserError: no pinned classifier for the data set.
    """
    if config.data.name not in PINNED:
        known = ", ".join(PINNED)
        raise UserError(f"samples are judged by a pinned classifier: --data.name must be one of {known}")
    images = open_images(config.data, AugmentConfig(), standardise=False)
    classifier, shape, train = load_pinned(config.data.name), images.dataset.image_shape, config.train
    task = adversarial(
        config,
        generator(shape),
        discriminator(shape),
        shape,
        measure=functools.partial(confidence, classifier),
        groups="classes",
        describe=lambda x: {"probabilities": classifier(x)["probabilities"]},
    )
    phase = Phase(
        name="train",
        task=task,
        source=images.training(train.batch_size * config.gan.discriminator_steps),
        steps=train.steps,
        hyper=hyper(config.optimizer, config.gan),
        evaluations={"validation": images.evaluation("validation", train.eval_batch_size)},
    )
    return experiment_for(config, phase, images, classifier)


def experiment_for(config: Any, phase: Phase, images: Images, classifier: PinnedClassifier) -> Experiment:
    """The experiment around a phase whose task draws images."""
    from experiments.classifier_report import describe_prediction, reader

    dataset = images.dataset
    show = describe_prediction(dataset.classes)
    return Experiment(
        name="",
        phases=(phase,),
        train=config.train,
        reported="last",
        final={"test": images.evaluation("test", config.train.eval_batch_size)},
        judge=lambda run: judge(run, images, classifier),
        data={"name": dataset.name, "version": dataset.version, "fingerprint": dataset.fingerprint},
        items="images",
        report=lambda view: report(view, images, classifier),
        read_input=reader(images),
        show=lambda outputs: {**show(outputs), "real": float(outputs["real"])},
        sample=sample,
        facts={
            "data": sizes(dataset),
            "optimiser": describe_optimizer(config.optimizer),
            "judged by": f"pinned {classifier.about.recipe}, test accuracy {100 * classifier.about.test_accuracy:.2f} %",
        },
        steps_may_grow=not depends_on_total_steps(config.optimizer),
    )


def pixels(images: Images, split: str, count: int) -> np.ndarray:
    """`count` images of a split, evenly spread over it, in 0 ... 1."""
    found = images.dataset.splits[split]["image"]
    chosen = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
    return found[chosen].astype(np.float32) / 255.0


def judge(run: Any, images: Images, classifier: PinnedClassifier) -> dict[str, float]:
    """Fréchet distance and its floor, with as many images on each side as the test split has; confidence; classes."""
    task, count = run.experiment.phases[-1].task, run.experiment.final["test"].size
    test = described(task, run.state, pixels(images, "test", count), classifier)["features"]
    train = described(task, run.state, pixels(images, "train", count), classifier)["features"]
    drawn = draw(task, run.state, count, run.key, classifier)
    target = Gaussian.of(test)
    groups = confident_groups(drawn["probabilities"])
    return {
        "test/fd_lenet": frechet_distance(Gaussian.of(drawn["features"]), target),
        "test/fd_lenet_floor": frechet_distance(Gaussian.of(train), target),
        "test/confident": float(groups.sum(1).mean()),
        "test/classes": float((groups.mean(0) >= COVERED_FROM / groups.shape[1]).sum()),
    }


def confident_groups(probabilities: np.ndarray) -> np.ndarray:
    """[n, K], a one at the class of each sample that has a probability of at least CONFIDENT; see `confidence`."""
    sure = probabilities.max(1) >= CONFIDENT
    return np.eye(probabilities.shape[1])[probabilities.argmax(1)] * sure[:, None]


def sample(view: Any, request: Any) -> None:
    """New images as samples.npy [n, H, W, C] in 0 ... 1 and a grid of the first hundred."""
    import jax

    from jaxdl.reports.gan import draw_images

    task = view.experiment.phases[-1].task
    found = draw(task, view.state(view.first), request.count, jax.random.key(request.seed))["samples"]
    write_samples(found, request, lambda samples: draw_images(samples[:100]))


# --- report -----------------------------------------------------------------------------------------------------------


def report(view: Any, images: Images, classifier: PinnedClassifier) -> list:
    """The game, samples, what the classifier sees in them, neighbours, the latent space, distances."""
    from jaxdl.engine.judged import Judged
    from jaxdl.reports import gan

    i = view.done[0]
    run = Judged(view.experiment, view.state(i), view.records[i]["seed"])
    task, count = view.experiment.phases[-1].task, view.experiment.final["test"].size
    drawn = draw(task, run.state, count, run.key, classifier)
    previews = shown_previews(run.state, view.records[i]["steps"])
    return [
        gan.game_section(view.rows),
        *gan.image_sections(drawn["samples"], previews),
        gan.classes_section(drawn["probabilities"], CONFIDENT, images.dataset.classes),
        gan.distances_section(
            calibration(task, run, images, classifier, drawn["features"]),
            f"the features of {classifier.about.recipe}",
            count,
        ),
        gan.neighbours_section(drawn["samples"], pixels(images, "train", 20000)),
        latent_space(task, run, classifier),
    ]


def calibration(
    task: Adversarial, run: Any, images: Images, classifier: PinnedClassifier, features: np.ndarray
) -> list[tuple[str, float]]:
    """(name, distance to the test split) of the samples and of training images that were spoilt more and more."""
    count = len(features)
    target = Gaussian.of(described(task, run.state, pixels(images, "test", count), classifier)["features"])
    train = pixels(images, "train", count)
    noise = np.random.default_rng(0).normal(size=train.shape).astype(np.float32)
    spoilt = {"training images (the floor)": train}
    for sigma in (0.1, 0.2, 0.4):
        spoilt[f"training images with noise, σ = {sigma:g}"] = np.clip(train + sigma * noise, 0, 1)
    found = described(task, run.state, train, classifier)
    kept = found["probabilities"].argmax(1) != 0
    rows = [("samples", frechet_distance(Gaussian.of(features), target))]
    rows.append(("training images without one class", frechet_distance(Gaussian.of(found["features"][kept]), target)))
    for name, values in spoilt.items():
        seen = described(task, run.state, values, classifier)["features"]
        rows.append((name, frechet_distance(Gaussian.of(seen), target)))
    return rows


def latent_space(task: Adversarial, run: Any, classifier: PinnedClassifier) -> Any:
    """Walks between noise vectors, and how often the difference of two classes' mean noise turns one into the other."""
    import jax

    from jaxdl.reports.gan import latent_section

    noise = np.asarray(jax.random.normal(jax.random.fold_in(run.key, 1), (_LATENT_SAMPLES, task.latent)))
    labels = from_noise(task, run.state, noise, classifier)["probabilities"].argmax(1)
    classes = [k for k in range(10) if (labels == k).sum() > 1]
    means = {k: noise[labels == k].mean(0) for k in classes}
    wanted = np.array(
        [classes[(classes.index(k) + 1 + i % max(1, len(classes) - 1)) % len(classes)] for i, k in enumerate(labels)]
    )
    shift = np.stack([means[b] - means[a] for a, b in zip(labels, wanted, strict=True)])
    changed = wanted != labels
    shares = []
    for step in (shift, shift[:, np.random.default_rng(0).permutation(task.latent)]):
        found = from_noise(task, run.state, noise + step, classifier)["probabilities"].argmax(1)
        shares.append(float((found == wanted)[changed].mean()) if changed.any() else 0.0)
    walk = from_noise(task, run.state, great_circles(noise[: 2 * _WALKS], _WALK_STEPS))["samples"]
    return latent_section(walk.reshape(_WALKS, _WALK_STEPS, *walk.shape[1:]), *shares)


def great_circles(ends: np.ndarray, steps: int) -> np.ndarray:
    """[n · steps, L]: `steps` points from ends[2i] to ends[2i + 1] of [2n, L], at even angles."""
    paths = []
    for a, b in zip(ends[::2], ends[1::2], strict=True):
        angle = np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))
        t = np.linspace(0, 1, steps)[:, None]
        paths.append((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))
    return np.concatenate(paths).astype(np.float32)
