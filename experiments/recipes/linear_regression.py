"""Linear regression by gradient descent: a shop's profit, 50 per visitor and 20 per click, less 300 of costs.

    python -m experiments.train --recipe=linear_regression

Expected: the coefficients of least squares, close to (50, 20, -300); the report prints both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdl.engine.experiment import Experiment, Phase, TrainConfig
from jaxdl.optimizers import OptimizerConfig, depends_on_total_steps, describe, hyper_parameters, make_optimizer
from jaxdl.settings import setting

TRUE = np.array([50.0, 20.0, -300.0])
NAMES = ("visitors", "clicks", "constant")


@dataclass(frozen=True)
class DataConfig:
    """The shop's days."""

    days: int = setting(200, "days to learn from; a fifth as many for validation and for test", minimum=10)
    noise: float = setting(10.0, "standard deviation of what visitors and clicks do not explain", minimum=0.0)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="sgd", learning_rate=0.1)
    train: TrainConfig = TrainConfig(
        steps=300, batch_size=200, eval_batch_size=40, log_every=10, eval_every=50, checkpoint_every=300
    )


def days(config: DataConfig, count: int, seed: int) -> dict[str, np.ndarray]:
    """{"input": visitors 0-30 and clicks 0-50 [n, 2], "target": profit in hundreds [n, 1]}; the same for every run."""
    draw = np.random.default_rng(seed)
    inputs = np.stack([draw.integers(0, 31, count), draw.integers(0, 51, count)], axis=1).astype(np.float32)
    profit = inputs @ TRUE[:2] + TRUE[2] + config.noise * draw.normal(size=count)
    return {
        "input": (inputs - [15.0, 25.0]).astype(np.float32) / 10.0,
        "target": (profit[:, None] / 100.0).astype(np.float32),
    }


def build(config: Config) -> Experiment:
    """The experiment."""
    from jaxdl.data.source import Resident
    from jaxdl.models.mlp import MLP
    from jaxdl.tasks.regression import regression

    train, held = config.train, max(2, config.data.days // 5)
    task = regression(MLP(features=(), num_classes=1), make_optimizer(config.optimizer, train.steps), (2,))
    counts = {"train": config.data.days, "validation": held, "test": held}
    splits = {name: days(config.data, count, seed) for seed, (name, count) in enumerate(counts.items())}
    phase = Phase(
        name="train",
        task=task,
        source=Resident.of(splits["train"], train.batch_size, shuffle=True),
        steps=train.steps,
        hyper=hyper_parameters(config.optimizer),
        evaluations={"validation": Resident.of(splits["validation"], train.eval_batch_size, shuffle=False)},
        objective=("validation/loss", "min"),
        patience=train.patience,
    )
    return Experiment(
        name="linear_regression",
        phases=(phase,),
        train=train,
        reported="last",
        final={"test": Resident.of(splits["test"], train.eval_batch_size, shuffle=False)},
        data={"name": "shop", "version": "1", "fingerprint": None},
        report=lambda view: report(view, splits),
        facts={"data": f"{config.data.days} generated days of a shop", "optimiser": describe(config.optimizer)},
        steps_may_grow=not depends_on_total_steps(config.optimizer),
    )


def coefficients(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Profit per visitor, per click and the constant, from the network's weights [2, 1] and bias [1]."""
    slopes = 100.0 * np.asarray(kernel, np.float64)[:, 0] / 10.0
    return np.array([*slopes, 100.0 * float(bias[0]) - slopes @ [15.0, 25.0]])


def least_squares(split: dict[str, np.ndarray]) -> np.ndarray:
    """The closed form, in the same units."""
    design = np.c_[split["input"], np.ones(len(split["input"]))].astype(np.float64)
    solution = np.linalg.lstsq(design, split["target"][:, 0].astype(np.float64), rcond=None)[0]
    return coefficients(solution[:2, None], solution[2:])


def report(view: Any, splits: dict[str, dict[str, np.ndarray]]) -> list:
    """Coefficients beside those of the closed form, predictions against targets."""
    from jaxdl.reports.page import Section, Table
    from jaxdl.reports.regression import regression_sections

    params = view.state(view.first).nets["model"].params["Dense_0"]
    ours, exact = (
        coefficients(np.asarray(params["kernel"])[0], np.asarray(params["bias"])[0]),
        least_squares(splits["train"]),
    )
    rows = [[name, *(f"{x:.3f}" for x in values)] for name, *values in zip(NAMES, TRUE, exact, ours, strict=True)]
    table = Table(
        "", ["coefficient", "made with", "least squares", "gradient descent"], rows, "Profit, per unit of each input."
    )
    predictions = 100.0 * view.outputs(0, "test")["prediction"][:, 0]
    return [Section("Coefficients", [table]), *regression_sections(predictions, 100.0 * splits["test"]["target"][:, 0])]
