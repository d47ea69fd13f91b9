"""DCGAN: digits from noise by a convolutional generator against a convolutional discriminator; `dcgan:mnist` for MNIST.

Radford, Metz and Chintala, Unsupervised representation learning with deep convolutional generative adversarial networks,
ICLR 2016 (arXiv:1511.06434). No label is used in training; a pinned LeNet-5 looks at the samples afterwards.

    python -m experiments.train --recipe=dcgan                # scikit-learn's 8x8 digits, nothing to download
    python -m experiments.train --recipe=dcgan:mnist          # MNIST
    python -m experiments.sample --workdir=runs/dcgan --count=100

The measures are named after the pinned classifier: "confident" is the share of samples to which it gives one class with
p >= 0.9, "classes" how many classes have at least a tenth of their fair share of such samples, and "fd_lenet" the Fréchet
distance to the test split in the 84 features of its last hidden layer, beside "fd_lenet_floor", that of as many training
images. It cannot be compared with a FID of Inception features. Measured: the README's table of recipes.

Both variants depart from the paper in the rate's schedule and in judging a moving average of the generator; `dcgan:mnist`
in two more ways, chosen on validation images. Each network has a dense hidden layer of 256 units, as InfoGAN's networks for
MNIST have them (Chen et al. 2016, arXiv:1606.03657): 28x28 pixels can be halved twice, not four times as the paper's, and a
discriminator that ends there adds up what it sees in patches of 10x10 pixels, so that samples were crisp strokes that made
no digit. And the discriminator pays for its gradient at real images (R1, Mescheder et al. 2018, arXiv:1801.04406), in every
fourth step: without it its loss fell and the Fréchet distance did not.
"""

from dataclasses import dataclass, replace

from experiments.gans import GanConfig
from jaxdl.data.datasets import DataConfig
from jaxdl.engine.experiment import Experiment, TrainConfig
from jaxdl.optimizers import OptimizerConfig
from jaxdl.settings import setting


@dataclass(frozen=True)
class ModelConfig:
    """The networks."""

    generator: tuple[int, ...] = setting((64, 32), "maps before each doubling, from the smallest", minimum=1)
    discriminator: tuple[int, ...] = setting((32, 64), "maps after each halving, from the largest", minimum=1)
    generator_hidden: tuple[int, ...] = setting((), "dense layers before the generator's first map", minimum=1)
    discriminator_hidden: tuple[int, ...] = setting((), "dense layers after the discriminator's last map", minimum=1)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result."""

    data: DataConfig = DataConfig(name="digits")
    gan: GanConfig = GanConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adam", learning_rate=5e-4, beta1=0.5, schedule="cosine", ema_decay=0.999
    )
    train: TrainConfig = TrainConfig(
        steps=4000, batch_size=64, eval_batch_size=360, log_every=100, eval_every=500, checkpoint_every=1000
    )


VARIANTS = {
    "mnist": replace(
        Config(),
        data=DataConfig(name="mnist"),
        gan=GanConfig(gradient_penalty=0.05, penalty_every=4),
        model=ModelConfig(generator_hidden=(256,), discriminator_hidden=(256,)),
        train=TrainConfig(
            steps=20000, batch_size=64, eval_batch_size=500, log_every=200, eval_every=2000, checkpoint_every=2000
        ),
    )
}


def build(config: Config) -> Experiment:
    """The experiment."""
    from experiments.gan_images import image_game
    from jaxdl.models.gan import ConvDiscriminator, ConvGenerator

    return image_game(
        config,
        lambda image: ConvGenerator(image, config.model.generator, config.model.generator_hidden),
        lambda image: ConvDiscriminator(config.model.discriminator, config.model.discriminator_hidden),
    )
