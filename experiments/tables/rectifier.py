"""Rectifier, tanh and softplus units without pre-training on MNIST.

Glorot, Bordes, Bengio: Deep sparse rectifier neural networks, AISTATS 2011, table 1, column MNIST, rows without
unsupervised pre-training (inventory N1, D05): three hidden layers of 1000 units, minibatches of 10, stochastic gradient
descent, early stopping on validation data. Their L1 penalty on the activations (0.001) is left out here. What is to be
reproduced is the order: rectifier before tanh before softplus.
"""

from experiments.tables import ERROR, Plan, Row, Table

_EPOCH = 5000  # updates of 10 images in 50,000
_SETTINGS = {
    "data.validation_fraction": 1 / 6,
    "model.features": (1000, 1000, 1000),
    "model.dropout": 0.0,
    "model.input_dropout": 0.0,
    "optimizer.name": "sgd",
    "optimizer.schedule": "constant",
    "train.patience": 10,
}


def _row(name: str, published: str, rate: float) -> Row:
    short = {
        "train.batch_size": 100,
        "train.steps": 3 * _EPOCH,
        "train.eval_every": _EPOCH // 10,
        "optimizer.learning_rate": rate,
    }
    whole = {
        "train.batch_size": 10,
        "train.steps": 100 * _EPOCH,
        "train.eval_every": _EPOCH,
        "train.checkpoint_every": 10 * _EPOCH,
        "optimizer.learning_rate": rate / 10,
    }
    return Row(
        name,
        f"3 x 1000 {name}",
        published=published,
        source="Glorot et al. 2011",
        recipe="mlp_mnist",
        settings={**_SETTINGS, "model.activation": "relu" if name == "rectifier" else name},
        plans={
            "cpu": Plan(5, short, "batches of 100, at most 30 epochs, no penalty on activations"),
            "gpu": Plan(10, whole, "no penalty on activations"),
        },
    )


TABLE = Table(
    title="Rectifier, tanh and softplus without pre-training",
    source="Glorot, Bordes, Bengio 2011, table 1, column MNIST, without pre-training (inventory N1, D05). Test error.",
    measure=ERROR,
    rows=(_row("rectifier", "1.43", 0.1), _row("tanh", "1.57", 0.1), _row("softplus", "1.77", 0.1)),
    chosen="learning rates set once for all three, not tuned; the number of epochs by validation accuracy (early stopping)",
    budgets={"cpu": "two CPU cores, larger batches and fewer epochs", "gpu": "one GPU, batches of 10 as published"},
)
