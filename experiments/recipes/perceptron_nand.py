"""A perceptron that learns NAND by Rosenblatt's rule, and the gates that NAND perceptrons make.

NAND is universal: the report shows every function of two inputs, and a half-adder, compiled to NAND perceptrons.

    python -m experiments.train --recipe=perceptron_nand

Expected: error 0 on the truth table (the rule converges, because NAND is linearly separable).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdl.engine.experiment import Experiment, Phase, TrainConfig
from jaxdl.settings import setting

INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
NAND = np.array([1, 1, 1, 0], np.float32)


@dataclass(frozen=True)
class OptimizerConfig:
    """The perceptron rule."""

    learning_rate: float = setting(1.0, "size of a correction", minimum=0.0)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig(
        steps=50, batch_size=4, eval_batch_size=4, log_every=1, eval_every=5, checkpoint_every=50
    )


def build(config: Config) -> Experiment:
    """The experiment."""
    from jaxdl.data.source import Resident
    from jaxdl.tasks.perceptron import Perceptron

    table = {"input": INPUTS, "target": NAND}
    whole = Resident.of(table, config.train.eval_batch_size, shuffle=False)
    phase = Phase(
        name="train",
        task=Perceptron(inputs=2),
        source=Resident.of(table, config.train.batch_size, shuffle=True),
        steps=config.train.steps,
        hyper={"learning_rate": config.optimizer.learning_rate},
        evaluations={"table": whole},
        objective=("table/error", "min"),
        patience=config.train.patience,
    )
    return Experiment(
        name="perceptron_nand",
        phases=(phase,),
        train=config.train,
        data={"name": "NAND", "version": "1", "fingerprint": None},
        report=report,
        facts={"data": "the truth table of NAND, 4 rows"},
    )


def report(view: Any) -> list:
    """The learned table and the circuits that NAND gates make."""
    import jax.numpy as jnp

    from jaxdl.models.perceptron import compile_nand
    from jaxdl.reports.page import Section, Table
    from jaxdl.reports.regression import truth_table_section

    net = view.state(view.first).nets["perceptron"].params
    text = f"Learned: w = {np.asarray(net['weights'])[0].tolist()}, b = {float(np.asarray(net['bias'])[0]):g}."
    sections = [truth_table_section(INPUTS, view.outputs(0, "table")["answer"], NAND, title="NAND, learned", text=text)]
    rows = []
    for number in range(16):
        table = [number >> i & 1 for i in range(4)]
        circuit = compile_nand(table)
        right = np.asarray(circuit(jnp.asarray(INPUTS)))[:, 0].astype(int).tolist() == table
        rows.append(["".join(map(str, table)), len(circuit.gates), "yes" if right else "no"])
    header = ["outputs for 00, 01, 10, 11", "NAND perceptrons", "right"]
    sections.append(
        Section("All functions of two inputs", [Table("", header, rows, "Each gate has w = (-2, -2), b = 3.")])
    )
    adder = compile_nand([0, 1, 1, 0], [0, 0, 0, 1])
    expected = np.array([[0, 0], [1, 0], [1, 0], [0, 1]])
    answers = np.asarray(adder(jnp.asarray(INPUTS)))
    sections.append(truth_table_section(INPUTS, answers, expected, title="Half-adder: sum and carry"))
    return sections
