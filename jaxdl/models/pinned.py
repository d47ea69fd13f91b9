"""Small classifiers trained here whose weights are part of the package: the feature spaces that samples are measured in.

A Fréchet distance means something only in one fixed feature space. These are frozen: a file with another digest is
refused, and a distance is named after the network ("FD-LeNet"); it cannot be compared with a FID of Inception features.

Each was trained by `python -m experiments.train --recipe=RECIPE --seeds=5` and is the seed with the highest validation
accuracy, kept in half precision by `pin`. The accuracies in `PINNED` are those of the kept weights.
"""

import hashlib
import io
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.errors import UserError
from jaxdl.models.lenet import LeNet5

Array = jax.Array
FOLDER = pathlib.Path(__file__).parent / "weights"
CONFIDENT = 0.9


@dataclass(frozen=True)
class Pinned:
    """What is known of a committed file of weights.

    Attributes:
      file: name in `FOLDER`.
      sha256: of the file.
      recipe: that trained it.
      features: LeNet-5's.
      image: (H, W, C) of its inputs.
      test_accuracy: on the data set's own test split.
    """

    file: str
    sha256: str
    recipe: str
    features: tuple[int, int, int, int]
    image: tuple[int, int, int]
    test_accuracy: float


PINNED = {
    "mnist": Pinned(
        file="lenet5_mnist.npz",
        sha256="d04f402478c4f6540ab39bdcb1fd5e7dfe22ab183b5a8e62757d089d6cf48307",
        recipe="lenet5:mnist",
        features=(6, 16, 120, 84),
        image=(28, 28, 1),
        test_accuracy=0.9921,
    ),
    "digits": Pinned(
        file="lenet5_digits.npz",
        sha256="0462f747253592b9a6dee33f77acbef9c4d05aa25c2a4292e7648ef861b7a337",
        recipe="lenet5",
        features=(16, 32, 120, 84),
        image=(8, 8, 1),
        test_accuracy=0.9944,
    ),
}


@dataclass(frozen=True, eq=False)
class PinnedClassifier:
    """A frozen LeNet-5.

    Attributes:
      about: its entry of `PINNED`.
      params: float32, as `LeNet5.apply` takes them.
      mean, std: what its inputs are standardised with, pixels in 0 ... 1.
    """

    about: Pinned
    params: Any
    mean: float
    std: float

    def __call__(self, images: Array) -> dict[str, Array]:
        """For images [B, H, W, C] in 0 ... 1: "probabilities" [B, 10] and "features" [B, 84], the last hidden layer."""
        model = LeNet5(self.about.features)
        x = (images - self.mean) / self.std
        logits, captured = model.apply({"params": self.params}, x, train=False, mutable=["intermediates"])
        return {
            "probabilities": jax.nn.softmax(logits.astype(jnp.float32)),
            "features": captured["intermediates"]["features"][0].astype(jnp.float32),
        }


def load_pinned(name: str, folder: pathlib.Path = FOLDER) -> PinnedClassifier:
    """The classifier pinned for data set `name`.

    Raises:
      UserError: there is none for this data set, or its file is missing or another one.
    """
    if name not in PINNED:
        raise UserError(f"there is no pinned classifier for {name}: there are {', '.join(PINNED)}")
    about = PINNED[name]
    path = folder / about.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the pinned classifier {path} cannot be read ({error.strerror}): install jaxdl again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != about.sha256:
        raise UserError(
            f"{path} is not the pinned classifier (sha256 {found[:12]}, not {about.sha256[:12]}): install jaxdl again"
        )
    with np.load(io.BytesIO(content)) as file:
        arrays = {key: file[key] for key in file.files}
    mean, std = (float(arrays.pop(key)) for key in ("mean", "std"))
    params: dict[str, Any] = {}
    for key, array in arrays.items():
        layer, leaf = key.split("/")
        params.setdefault(layer, {})[leaf] = jnp.asarray(array, jnp.float32)
    return PinnedClassifier(about, params, mean, std)


def pin(networks: Mapping[str, np.ndarray], mean: float, std: float, path: pathlib.Path) -> str:
    """Writes a trained LeNet-5 as a file to be pinned; its sha256.

    Args:
      networks: from `jaxdl.engine.fit.load_networks`.
      mean, std: of the data set's training split, `Dataset.mean[0]` and `Dataset.std[0]`.
      path: the file, ending in ".npz".
    """
    prefix = "model/params/"
    arrays = {
        name.removeprefix(prefix): v.astype(np.float16) for name, v in networks.items() if name.startswith(prefix)
    }
    scale = {"mean": np.float64(mean), "std": np.float64(std)}
    with open(path, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **scale, **dict(sorted(arrays.items())))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def confidence(classifier: Callable[[Array], dict[str, Array]], images: Array) -> tuple[dict[str, Array], Array]:
    """What the classifier makes of samples [B, H, W, C], as `Adversarial.measure` gives it.

    Returns:
      {"confident": [B], 1 where p ≥ 0.9 for one class} and groups [B, 10], one at the class of each confident sample.
    """
    probabilities = classifier(images)["probabilities"]
    confident = (probabilities.max(-1) >= CONFIDENT).astype(jnp.float32)
    groups = jax.nn.one_hot(probabilities.argmax(-1), probabilities.shape[-1]) * confident[:, None]
    return {"confident": confident}, groups
