"""Sparse rectifier networks: test error against the share of hidden units that are zero, 200 networks as one program.

Glorot, Bordes, Bengio: Deep sparse rectifier neural networks, AISTATS 2011, figure 3 (inventory N2, D04): 200 networks, L1
penalties on the activations from 0 to 0.01, the test error flat up to about 85 % zeros (no numbers are printed). Each row
is the mean error of the networks in one range of sparsity; the scatter is in the report of the run folder.
"""

import dataclasses

from experiments.tables import ERROR, Measure, Plan, Row, Table

_ZEROS = "test/zeros"


def _range(low: float, high: float) -> Measure:
    return dataclasses.replace(ERROR, within=(_ZEROS, low, high))


def _row(low: float, high: float) -> Row:
    return Row(f"zeros{low:g}", f"{low:g} to {high:g} % zeros", _range(low / 100, high / 100), of="all")


TABLE = Table(
    title="Sparse rectifier networks",
    source=(
        "Glorot, Bordes, Bengio 2011, figure 3 (inventory N2, D04): test error flat up to about 85 % zeros. Mean test error "
        "of the networks in a range of sparsity."
    ),
    measure=ERROR,
    rows=(
        Row(
            "all",
            "all networks",
            Measure(_ZEROS, "share of zeros", "%", scale=100.0),
            recipe="sparsity",
            plans={
                "cpu": Plan(200, differs="3 x 100 units instead of 3 x 1000, 7 epochs", seeds_mode="map"),
                "gpu": Plan(
                    200,
                    {"model.features": (1000, 1000, 1000), "train.steps": 20000, "train.eval_every": 2000},
                    "37 epochs",
                    seeds_mode="vmap",
                ),
            },
        ),
        _row(0, 50),
        _row(50, 70),
        _row(70, 80),
        _row(80, 85),
        _row(85, 90),
        _row(90, 95),
        _row(95, 100.1),
    ),
    chosen="common values set once; penalties drawn by each seed from U(0, 0.01), as published",
    budgets={
        "cpu": "two CPU cores, 200 small networks in one program",
        "gpu": "one GPU, 200 networks of the published size in one program",
    },
)
