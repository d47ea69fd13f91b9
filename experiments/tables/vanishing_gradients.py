"""Vanishing gradients: how much slower the first layers of a deep sigmoid network learn.

Nielsen, Neural networks and deep learning, chapter 5 (inventory N4, F02): 784-30-...-30-10 logistic units, cross entropy,
weights N(0, 1 / n_in), biases N(0, 1), one batch of 1000 MNIST training images, rate 0.1, λ = 5, 500 epochs. Compared is
the median over the epochs of ||mean over images of δ^l|| of the last hidden layer over that of the first. His data files
(fig/norms_during_training_*_layers.json of the book's code) hold one run each; the band 40 to 110 for layer 4 over layer 1
comes from five runs of a NumPy program. The figure on a log axis is in each row's report.
"""

from experiments.tables import Measure, Plan, Row, Table

_NIELSEN = "Nielsen, his data file, one run"
_PLANS = {"cpu": Plan(seeds=5), "gpu": Plan(seeds=5)}


def _ratio(layer: int) -> Measure:
    return Measure(f"delta/layer_{layer}_over_1", f"median of layer {layer} / layer 1", digits=1)


TABLE = Table(
    title="Vanishing gradients",
    source=(
        "Nielsen, Neural networks and deep learning, chapter 5 (inventory N4): norms of the mean error signal δ by hidden "
        "layer, 500 epochs of full-batch gradient descent on 1000 MNIST images. Published numbers are from one run each."
    ),
    measure=_ratio(4),
    rows=(
        Row(
            "layers4",
            "4 hidden layers",
            published="74",
            source=_NIELSEN,
            recipe="vanishing_gradients",
            plans=_PLANS,
            bar=(40, 110),
            note="the first 1000 images of TFDS's shuffled order, not Nielsen's first 1000",
        ),
        Row("layers4_3", "4 hidden layers", _ratio(3), "16", _NIELSEN, of="layers4"),
        Row("layers4_2", "4 hidden layers", _ratio(2), "2.7", _NIELSEN, of="layers4"),
        Row("layers3", "3 hidden layers", _ratio(3), "15.9", _NIELSEN, "vanishing_gradients:layers3", plans=_PLANS),
        Row("layers3_2", "3 hidden layers", _ratio(2), "3.0", _NIELSEN, of="layers3"),
        Row("layers2", "2 hidden layers", _ratio(2), "2.0", _NIELSEN, "vanishing_gradients:layers2", plans=_PLANS),
    ),
    chosen="all as published, nothing was chosen here",
    budgets={
        "cpu": "the published setting in full; a minute a row on one core",
        "gpu": "the same",
    },
)
