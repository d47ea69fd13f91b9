"""Maxout with dropout on permutation-invariant MNIST.

Goodfellow, Warde-Farley, Mirza, Courville, Bengio: Maxout networks, ICML 2013, table 1 (inventory N3, D16); exact settings
from pylearn2's mnist_pi.yaml and mnist_pi_continued.yaml (see the recipe). The stop rule of the second phase differs: a
fixed number of epochs.
"""

from experiments.tables import ERROR, Plan, Row, Table

TABLE = Table(
    title="Maxout, permutation-invariant MNIST",
    source="Goodfellow et al. 2013, table 1 (inventory N3, D16). Test error.",
    measure=ERROR,
    rows=(
        Row(
            "maxout",
            "maxout 240 x 5, 240 x 5, dropout",
            published="0.94",
            source="Goodfellow et al. 2013",
            recipe="maxout_mnist",
            plans={"cpu": Plan(3), "gpu": Plan(5)},
            bar=(None, 1.05),
            note="after the best of the first phase 100 epochs on all images; published: until their loss is reached",
        ),
        Row(
            "short",
            "the same, 80 and 30 epochs, averaged",
            published="0.94",
            source="Goodfellow et al. 2013",
            recipe="maxout_mnist:cpu",
            plans={
                "cpu": Plan(
                    3, differs="80 + 30 epochs, moving average of the parameters, instead of about 350 + 100 epochs"
                )
            },
        ),
        Row(
            "rectifier",
            "rectifier MLP, dropout",
            published="1.05",
            source="in Goodfellow et al. 2013",
            recipe="mlp_mnist",
            settings={"model.features": (1024, 1024, 1024), "model.dropout": 0.5, "model.input_dropout": 0.2},
            plans={
                "cpu": Plan(3, differs="Adam for 12,000 updates; the published network's settings are not at hand"),
                "gpu": Plan(
                    5,
                    {"train.steps": 120000, "train.eval_every": 5000},
                    "Adam; the published network's settings are not at hand",
                ),
            },
        ),
    ),
    chosen=(
        "maxout as published; its schedule shortened to 80 + 30 epochs of averaged parameters once, by validation data; "
        "the rectifier network not tuned"
    ),
    budgets={"cpu": "two CPU cores", "gpu": "one GPU"},
)
