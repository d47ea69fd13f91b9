"""The MNIST ladder: test errors from logistic regression to an ensemble of convolutional networks.

Inventory §3 (rows "Linear / MLP" and "LeNet / small CNN"): logistic regression and one layer of 500 tanh units from the
Theano deep-learning tutorials; LeNet-5 from LeCun et al. 1998; single augmented networks (1500 of them) and ensembles of
15 from cdeotte's MNIST-CNN-99.75.
"""

from experiments.tables import ERROR, Measure, Plan, Row, Table

_ENSEMBLE = Measure("test/accuracy", "test error of the averaged prediction", "%", -100.0, 100.0, ensemble=True)
_OURS = "Adam, averaged parameters; 54,000 of the 60,000 images"
_SMALLER = "a smaller network, and 14 epochs instead of 45"

TABLE = Table(
    title="MNIST, from a linear model to an ensemble",
    source="Inventory §3, rows Linear / MLP and LeNet / small CNN. Test error on the 10,000 test images.",
    measure=ERROR,
    rows=(
        Row(
            "logistic",
            "logistic regression",
            published="7.49",
            source="Theano deep-learning tutorials",
            recipe="logistic_mnist",
            plans={"cpu": Plan(5), "gpu": Plan(10)},
            bar=(None, 7.6),
        ),
        Row(
            "mlp",
            "MLP 512-512, dropout",
            published="1.65",
            source="Theano deep-learning tutorials: 500 tanh units, no dropout",
            recipe="mlp_mnist",
            plans={"cpu": Plan(5), "gpu": Plan(10)},
            bar=(None, 1.7),
        ),
        Row(
            "lenet5",
            "LeNet-5",
            published="0.95",
            source="LeCun et al. 1998, without distortions",
            recipe="lenet5:mnist",
            plans={"cpu": Plan(5, differs=_OURS), "gpu": Plan(10, differs=_OURS)},
            bar=(None, 0.95),
            note="images are shifted by up to one pixel in training; the published network saw them as they are",
        ),
        Row(
            "cnn",
            "augmented CNN, single networks",
            published="0.35 ± 0.045",
            source="cdeotte, 1500 networks, mean ± standard deviation",
            recipe="cnn_mnist",
            plans={
                "cpu": Plan(5, differs=_SMALLER),
                "gpu": Plan(
                    15,
                    {"model.features": (32, 64, 128), "train.steps": 19000, "train.eval_every": 1000},
                    "a network of ours, not theirs",
                ),
            },
            bar=(None, 0.5),
            chosen=(
                "common values set once; averaged statistics added, and maps and steps cut for time, after an aborted run's "
                "validation accuracy"
            ),
        ),
        Row(
            "ensemble",
            "ensemble of these",
            _ENSEMBLE,
            published="0.26",
            source="cdeotte, mean of ensembles of 15",
            of="cnn",
            plans={"cpu": Plan(0, differs="5 networks instead of 15")},
            bar=(None, 0.3),
        ),
    ),
    chosen="common values set once; not tuned",
    budgets={
        "cpu": "two CPU cores, recipes as they are",
        "gpu": "one GPU: more seeds, and a CNN of the published size",
    },
)
