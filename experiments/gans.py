"""What the recipes of generative adversarial networks share: settings, the task, the judge, samples and predictions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdl.objectives.adversarial import GENERATOR_LOSSES
from jaxdl.optimizers import OptimizerConfig, hyper_parameters, make_optimizer
from jaxdl.settings import setting
from jaxdl.tasks.adversarial import Adversarial, Sampling

SAMPLES_PER_PASS = 500


@dataclass(frozen=True)
class GanConfig:
    """The game."""

    latent: int = setting(64, "size of the noise that a sample is made of", minimum=1)
    loss: str = setting("non_saturating", "what the generator minimises", choices=GENERATOR_LOSSES)
    discriminator_steps: int = setting(1, "updates of the discriminator in one step, each on its own batch", minimum=1)
    simultaneous: bool = setting(False, "the generator answers the discriminator as it was before the step")
    discriminator_rate: float = setting(1.0, "learning rate of the discriminator over the generator's", minimum=0.0)
    real_smoothing: float = setting(
        0.0, "one-sided label smoothing: 1 - s is the target of real ones", minimum=0.0, maximum=0.5
    )
    gradient_penalty: float = setting(
        0.0, "weight γ of the discriminator's squared gradient at real examples (R1); 0: off", minimum=0.0
    )
    penalty_half_life: int = setting(0, "steps in which γ falls to a half; 0: constant", minimum=0)
    penalty_every: int = setting(1, "the penalty is paid in every n-th step, n times as much", minimum=1)


def adversarial(
    config: Any, generator: Any, discriminator: Any, example: tuple[int, ...], **changes: Any
) -> Adversarial:
    """The task of two networks.

    Args:
      config: a recipe's, with `gan`, `optimizer` and `train`.
      generator, discriminator: models, see `Adversarial`.
      example: shape of one example.
      **changes: further fields of `Adversarial`.

    Raises:
      UserError: for an optimiser that needs one loss that only falls.
    """
    from jaxdl.errors import UserError

    if config.optimizer.name == "lbfgs":
        raise UserError(
            "a game of two networks has no loss to search along: choose another --optimizer.name than lbfgs"
        )
    gan = config.gan
    return Adversarial(
        generator=generator,
        discriminator=discriminator,
        optimizer=make_optimizer(config.optimizer, config.train.steps),
        example=example,
        latent=gan.latent,
        loss=gan.loss,
        discriminator_steps=gan.discriminator_steps,
        simultaneous=gan.simultaneous,
        penalty=gan.gradient_penalty > 0,
        penalty_half_life=gan.penalty_half_life,
        penalty_every=gan.penalty_every,
        ema_decay=config.optimizer.ema_decay,
        **changes,
    )


def hyper(optimizer: OptimizerConfig, gan: GanConfig) -> dict[str, float]:
    """What `Adversarial` reads from the state's hyper-parameters."""
    found = {
        **hyper_parameters(optimizer),
        "discriminator_rate": gan.discriminator_rate,
        "real_smoothing": gan.real_smoothing,
    }
    return found | ({"gradient_penalty": gan.gradient_penalty} if gan.gradient_penalty > 0 else {})


def draw(
    task: Adversarial, state: Any, count: int, key: Any, describe: Callable | None = None
) -> dict[str, np.ndarray]:
    """`count` new samples of a canonical State [1, ...]: "samples" [count, *example] and what `describe` says of them.

    `key` is used for the noise.
    """
    import jax

    return from_noise(task, state, np.asarray(jax.random.normal(key, (count, task.latent))), describe)


def from_noise(
    task: Adversarial, state: Any, noise: np.ndarray, describe: Callable | None = None
) -> dict[str, np.ndarray]:
    """As `draw`, from given noise [n, L]."""
    return _collected(task, state, {"z": noise}, describe)


def described(task: Adversarial, state: Any, examples: np.ndarray, describe: Callable) -> dict[str, np.ndarray]:
    """What `describe` says of given examples [n, *example], in the same batches."""
    return _collected(task, state, {task.inputs: examples}, describe)


def write_samples(samples: np.ndarray, request: Any, draw_figure: Callable[[np.ndarray], Any]) -> None:
    """samples.npy and samples.png in the request's folder.

    Args:
      samples: [n, *example].
      request: `experiments.sample.SampleRequest`.
      draw_figure: samples -> matplotlib Figure.
    """
    import matplotlib

    from jaxdl.reports.style import DPI, RC

    np.save(request.folder / "samples.npy", samples)
    with matplotlib.rc_context(RC):
        draw_figure(samples).savefig(request.folder / "samples.png", dpi=DPI)
    request.emit(f"{len(samples)} samples: samples.png, samples.npy\n")


def _collected(task: Adversarial, state: Any, arrays: dict[str, np.ndarray], describe: Callable | None) -> dict:
    from jaxdl.data.source import Resident
    from jaxdl.engine.compiled import collect

    size = len(next(iter(arrays.values())))
    source = Resident.of(arrays, min(size, SAMPLES_PER_PASS), shuffle=False)
    return collect(Sampling(task, describe), state, source)
