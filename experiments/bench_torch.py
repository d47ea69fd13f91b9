"""The same networks in PyTorch, trained in the ways that are fast there: eager, fused Adam, channels last."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

VARIANTS = ("eager", "fused", "channels_last", "channels_last_fused")


def missing() -> str:
    """Why PyTorch cannot be measured here; "" if it can."""
    import importlib.util

    return "" if importlib.util.find_spec("torch") else "PyTorch is not installed (pip install -e '.[oracles]')"


@contextlib.contextmanager
def threads(count: int) -> Iterator[str]:
    """PyTorch has `count` threads and flushes denormals, until the block ends; yields its build's facts in one line."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    # XLA:CPU flushes denormals too; without it the moments of dead units slow Adam down
    torch.set_flush_denormal(True)
    kind = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    try:
        yield f"{torch.__version__}, {torch.get_num_threads()} threads, {kind}"
    finally:
        torch.set_flush_denormal(False)  # it is the calling thread's state: NumPy's and Python's floats flush too
        torch.set_num_threads(before)


def mlp(inputs: int, *features: int) -> Any:
    """Dense layers with ReLU between them."""
    from torch import nn

    layers: list = [nn.Flatten()]
    for before, after in zip((inputs, *features), features, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet5(features: tuple[int, int, int, int] = (6, 16, 120, 84), classes: int = 10) -> Any:
    """`jaxdl.models.lenet.LeNet5` for 28x28: ReLU after max pooling, which is the same function and the faster order."""
    from torch import nn

    a, b, c, d = features
    return nn.Sequential(
        *(nn.Conv2d(1, a, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(a, b, 5), nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Flatten()),
        *(nn.Linear(25 * b, c), nn.ReLU(), nn.Linear(c, d), nn.ReLU(), nn.Linear(d, classes)),
    )


def resnet20(depth: int = 20, classes: int = 10) -> Any:
    """`jaxdl.models.resnet.CifarResNet` with shortcuts of option A."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int):
            super().__init__()
            self.stride, self.new = stride, after - before
            self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu(self.norm1(self.conv1(x)), inplace=True)
            y = self.norm2(self.conv2(y))
            if self.stride != 1 or self.new:
                x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
            return F.relu(y + x, inplace=True)

    layers: list = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    width = 16
    for stage in range(3):
        for block in range((depth - 2) // 6):
            after = 16 << stage
            layers.append(Block(width, after, 2 if stage > 0 and block == 0 else 1))
            width = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Loop:
    """Updates of one network by one optimiser; `next_loss` is what a kind of training adds.

    Args:
      module: the network.
      optimizer: of its parameters.
      clip_norm: largest norm of the gradient; 0: any.
    """

    def __init__(self, module: Any, optimizer: Any, clip_norm: float = 0.0):
        self.module, self.optimizer, self.clip_norm = module, optimizer, clip_norm

    def next_loss(self) -> Any:
        """The loss of the next batch."""
        raise NotImplementedError

    def __call__(self, steps: int) -> None:
        """`steps` updates."""
        import torch

        loss: Any = None
        for _ in range(steps):
            loss = self.next_loss()
            self.optimizer.zero_grad()
            loss.backward()
            if self.clip_norm:
                torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.clip_norm, foreach=True)
            self.optimizer.step()
        loss.item()


class Order:
    """Shuffled epochs: batches of row numbers."""

    def __init__(self, size: int, batch: int):
        import torch

        self.order, self.batch, self.position = torch.randperm(size), batch, 0

    def __call__(self) -> Any:
        """The next [batch] rows."""
        import torch

        if self.position + self.batch > len(self.order):
            self.order, self.position = torch.randperm(len(self.order)), 0
        self.position += self.batch
        return self.order[self.position - self.batch : self.position]


def adam(module: Any, variant: str, learning_rate: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)) -> Any:
    """Adam, fused where the variant's name says so."""
    import torch

    fused = True if variant.endswith("fused") else None
    return torch.optim.Adam(module.parameters(), learning_rate, betas, fused=fused)


class Trainer(Loop):
    """Adam on softmax cross entropy; each batch is indexed out of a float tensor in memory, in shuffled epochs.

    Args:
      network: makes the module.
      images: uint8 [n, H, W, C]; kept as standardised float32, [n, H, W, C] for channels last, else [n, C, H, W].
      labels: [n].
      batch: rows of a batch.
      variant: one of VARIANTS.
    """

    def __init__(self, network: Callable[[], Any], images: np.ndarray, labels: np.ndarray, batch: int, variant: str):
        import torch

        torch.manual_seed(0)
        self.last = variant.startswith("channels_last")
        floats = (images.astype(np.float32) - np.float32(images.mean())) / np.float32(images.std())
        self.images = torch.from_numpy(floats if self.last else np.ascontiguousarray(floats.transpose(0, 3, 1, 2)))
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.rows = Order(len(labels), batch)
        self.loss = torch.nn.functional.cross_entropy
        module = network()
        module = module.to(memory_format=torch.channels_last) if self.last else module
        super().__init__(module, adam(module, variant))

    def next_loss(self) -> Any:
        """See `Loop`."""
        rows = self.rows()
        images = self.images[rows]
        return self.loss(self.module(images.permute(0, 3, 1, 2) if self.last else images), self.labels[rows])
