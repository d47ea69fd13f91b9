"""Autoencoders against principal components: squared error of MNIST's test images from 30 values.

Hinton, Salakhutdinov: Reducing the dimensionality of data with neural networks, Science 2006 (inventory N10, L17, L18):
sum of squared errors over an image's pixels in [0, 1], mean over the 10,000 test images. Logistic PCA is a linear encoder
with logistic output units here; codes optimised for each test image would give far smaller errors.
"""

from experiments.tables import AS_IT_STANDS, Measure, Plan, Row, Table

_INSTEAD = "Adam instead of conjugate gradients, momentum that rises over five epochs where theirs steps up after them"
_SOURCE = "Hinton, Salakhutdinov 2006"

TABLE = Table(
    title="Autoencoders against PCA, MNIST, 30 values",
    source="Hinton, Salakhutdinov 2006 (inventory N10, L17, L18). Squared error per test image.",
    measure=Measure("test/squared_error", "squared error per test image"),
    rows=(
        Row(
            "pca",
            "PCA",
            published="13.87",
            source=_SOURCE,
            recipe="pca:mnist",
            plans={"cpu": Plan(1), "gpu": Plan(1)},
            bar=(13.86, 13.88),
            note="fitted on all 60,000 training images in one pass: nothing is random in it",
        ),
        Row(
            "linear",
            "linear autoencoder by gradients",
            source="as PCA, Baldi, Hornik 1989",
            recipe="linear_ae:mnist",
            plans={"cpu": Plan(5), "gpu": Plan(5)},
            bar=(13.80, 13.94),
        ),
        Row(
            "logistic",
            "logistic PCA",
            published="8.01",
            source=_SOURCE,
            recipe="logistic_ae:mnist",
            plans={"cpu": Plan(5), "gpu": Plan(5)},
            bar=(None, 8.01),
        ),
        Row(
            "deep",
            "deep autoencoder 784-1000-500-250-30, pre-trained",
            published="3.00",
            source=_SOURCE,
            recipe="deep_ae:mnist",
            plans={
                "cpu": Plan(1, differs=f"15 epochs of pre-training a layer instead of 50, {_INSTEAD}"),
                "gpu": Plan(
                    5,
                    {"pretraining.epochs": 50, "train.steps": 120000},
                    _INSTEAD,
                ),
            },
            bar=(None, 3.3),
        ),
        Row(
            "deep_random",
            "the same without pre-training",
            source="none with 30 values and these layers",
            recipe="deep_ae:mnist_random",
            plans={"cpu": Plan(1), "gpu": Plan(5, {"train.steps": 120000})},
        ),
    ),
    chosen=AS_IT_STANDS,
    budgets={"cpu": "two CPU cores", "gpu": "one GPU: pre-training as long as published, more seeds"},
)
