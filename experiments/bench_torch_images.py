"""A variational autoencoder and a DCGAN in PyTorch, in the ways that are fast there."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import bench_torch


def vae(inputs: int, features: Sequence[int], latents: int) -> Any:
    """`jaxdl.models.vae.VAE`: x [B, inputs] -> mean, log variance, logits."""
    import torch
    from torch import nn

    def dense(*sizes: int) -> list:
        return [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(*dense(inputs, *features), nn.Linear(features[-1], 2 * latents))
            self.decoder = nn.Sequential(*dense(latents, *reversed(features)), nn.Linear(features[0], inputs))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            mean, log_variance = self.encoder(x).chunk(2, dim=1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            return mean, log_variance, self.decoder(z)

    return VAE()


class Variational(bench_torch.Loop):
    """Adam on the negative bound of images that are binarised anew each time.

    Args:
      network: makes the module.
      images: uint8 [n, H, W, C], kept as float32.
      batch: rows of a batch.
      variant: "eager" or "fused".
    """

    def __init__(self, network: Callable[[], Any], images: np.ndarray, batch: int, variant: str):
        import torch

        torch.manual_seed(0)
        self.images = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255.0)
        self.rows = bench_torch.Order(len(images), batch)
        module = network()
        super().__init__(module, bench_torch.adam(module, variant))

    def next_loss(self) -> Any:
        """See `Loop`."""
        import torch
        from torch.nn import functional as F

        x = self.images[self.rows()]
        x = (torch.rand_like(x) < x).float()
        mean, log_variance, logits = self.module(x)
        distortion = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum()
        return (distortion + divergence) / len(x)


def generator(latent: int, features: Sequence[int] = (64, 32), side: int = 28) -> Any:
    """`jaxdl.models.gan.ConvGenerator` for one channel."""
    from torch import nn

    smallest = side // 2 ** len(features)
    layers: list = [nn.Linear(latent, features[0] * smallest**2, bias=False)]
    layers.append(nn.Unflatten(1, (features[0], smallest, smallest)))
    for before, after in itertools.pairwise(features):
        layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
        layers.append(nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False))
    layers += [nn.BatchNorm2d(features[-1]), nn.ReLU(inplace=True), nn.ConvTranspose2d(features[-1], 1, 4, 2, 1)]
    return nn.Sequential(*layers, nn.Tanh())


def discriminator(features: Sequence[int] = (32, 64), side: int = 28) -> Any:
    """`jaxdl.models.gan.ConvDiscriminator` for one channel; pixels in -1 ... 1."""
    from torch import nn

    layers: list = [nn.Conv2d(1, features[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for before, after in itertools.pairwise(features):
        layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(after), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features[-1] * (side // 2 ** len(features)) ** 2, 1))


class Game:
    """One update of the discriminator and one of the generator on the same samples, and the generator's average.

    Args:
      networks: makes (generator, discriminator).
      images: uint8 [n, H, W, 1], kept as float32 in -1 ... 1.
      batch: rows of a batch.
      latent: size of the noise.
      variant: one of `bench_torch.VARIANTS`.
    """

    def __init__(
        self, networks: Callable[[], tuple[Any, Any]], images: np.ndarray, batch: int, latent: int, variant: str
    ):
        import torch

        torch.manual_seed(0)
        layout = torch.channels_last if variant.startswith("channels_last") else torch.contiguous_format
        floats = images.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1.0
        self.images = torch.from_numpy(np.ascontiguousarray(floats)).contiguous(memory_format=layout)
        self.rows, self.batch, self.latent = bench_torch.Order(len(images), batch), batch, latent
        self.generator, self.discriminator = (net.to(memory_format=layout) for net in networks())
        self.optimizers = [
            bench_torch.adam(net, variant, 3e-4, (0.5, 0.999)) for net in (self.generator, self.discriminator)
        ]
        self.live = [value for value in self.generator.state_dict().values() if value.is_floating_point()]
        self.average = [value.clone() for value in self.live]

    def __call__(self, steps: int) -> None:
        """`steps` updates of both."""
        import torch
        from torch.nn import functional as F

        loss: Any = None
        for _ in range(steps):
            samples = self.generator(torch.randn(self.batch, self.latent))
            real, fake = self.discriminator(self.images[self.rows()]), self.discriminator(samples.detach())
            loss = (F.softplus(-real) + F.softplus(fake)).mean()
            self._update(1, loss)
            for parameter in self.discriminator.parameters():
                parameter.requires_grad_(False)
            loss = F.softplus(-self.discriminator(samples)).mean()
            self._update(0, loss)
            for parameter in self.discriminator.parameters():
                parameter.requires_grad_(True)
            torch._foreach_lerp_(self.average, self.live, 1e-3)
        loss.item()

    def _update(self, which: int, loss: Any) -> None:
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()
