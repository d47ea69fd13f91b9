"""airbench94 in PyTorch, as published: what `bench --suite=gpu` compares `airbench_cifar10` with on the same images.

Jordan 2024, arXiv:2404.00498. On files that are not the published ones it says what its accuracy is there.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# of the published listing; rate and decay per 1024 examples
RATE, DECAY, MOMENTUM, BIAS_SCALE, SMOOTHING = 11.5, 0.0153, 0.85, 64.0, 0.2
WIDTHS, BATCH, PAD = (64, 256, 256), 1024, 2


def network(widths: Sequence[int] = WIDTHS) -> Any:
    """The published network: whitening convolution, three groups, a linear layer whose output is divided by 9."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Norm(nn.BatchNorm2d):
        def __init__(self, features: int):
            super().__init__(features, eps=1e-12, momentum=0.4)
            self.weight.requires_grad = False

    class Conv(nn.Conv2d):
        def __init__(self, inputs: int, outputs: int):
            super().__init__(inputs, outputs, 3, padding="same", bias=False)
            with torch.no_grad():
                nn.init.dirac_(self.weight[:inputs])

    class Group(nn.Module):
        def __init__(self, inputs: int, outputs: int):
            super().__init__()
            self.conv1, self.norm1 = Conv(inputs, outputs), Norm(outputs)
            self.conv2, self.norm2 = Conv(outputs, outputs), Norm(outputs)

        def forward(self, x: Any) -> Any:
            x = functional.gelu(self.norm1(functional.max_pool2d(self.conv1(x), 2)))
            return functional.gelu(self.norm2(self.conv2(x)))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.whiten = nn.Conv2d(3, 24, 2)
            self.whiten.weight.requires_grad = False
            inputs = (24, *widths[:-1])
            self.groups = nn.Sequential(*(Group(i, o) for i, o in zip(inputs, widths, strict=True)))
            self.head = nn.Linear(widths[-1], 10, bias=False)

        def forward(self, x: Any) -> Any:
            x = self.groups(functional.gelu(self.whiten(x)))
            return self.head(functional.max_pool2d(x, 3).flatten(1)) / 9

    return Network()


class Airbench:
    """Training of the published network on a GPU in half precision.

    Args:
      train, test: {"image" [n, H, W, 3] uint8, "label" [n]}.
      mean, std: of the channels, pixels in 0 ... 1.
      steps: updates of a run.
      device, half: where, and whether in half precision.
      widths, batch: for small checks.
    """

    def __init__(
        self,
        train: Mapping[str, np.ndarray],
        test: Mapping[str, np.ndarray],
        mean: Sequence[float],
        std: Sequence[float],
        steps: int,
        device: str = "cuda",
        half: bool = True,
        widths: Sequence[int] = WIDTHS,
        batch: int = BATCH,
    ):
        import torch
        from torch.nn import functional

        self.torch, self.steps, self.device, self.widths, self.batch = torch, steps, device, widths, batch
        self.dtype = torch.half if half else torch.float32
        moments = [torch.tensor(each, device=device, dtype=torch.float32).view(1, 3, 1, 1) for each in (mean, std)]

        def placed(split: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
            images = torch.tensor(np.asarray(split["image"]), device=device).permute(0, 3, 1, 2).float() / 255
            images = ((images - moments[0]) / moments[1]).to(self.dtype)
            return images, torch.tensor(np.asarray(split["label"]), device=device).long()

        (self.images, self.labels), (self.test_images, self.test_labels) = placed(train), placed(test)
        self.padded = functional.pad(self.images, (PAD,) * 4, "reflect").permute(0, 2, 3, 1).contiguous()

    def run(self, seed: int) -> tuple[float, float]:
        """Trains one seed to the end; seconds of training and accuracy on the test images."""
        torch = self.torch
        torch.manual_seed(seed)
        net = network(self.widths).to(self.device, self.dtype).to(memory_format=torch.channels_last)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.float()
        self._whiten(net)
        self._wait()
        began = time.perf_counter()
        self._train(net, np.random.default_rng(seed))
        self._wait()
        return time.perf_counter() - began, self._accuracy(net)

    def _wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def _whiten(self, net: Any) -> None:
        torch = self.torch
        patches = self.images[:5000].float().unfold(2, 2, 1).unfold(3, 2, 1).transpose(1, 3).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        scaled = vectors.T.reshape(-1, 3, 2, 2).flip(0) / torch.sqrt(values.flip(0).view(-1, 1, 1, 1) + 5e-4)
        with torch.no_grad():
            net.whiten.weight.copy_(torch.cat((scaled, -scaled)))
            net.whiten.bias.zero_()

    def _train(self, net: Any, rng: np.random.Generator) -> None:
        torch = self.torch
        optimizer, schedule = self._optimizer(net)
        slow = {name: value.clone() for name, value in net.state_dict().items()}
        count, done, epoch = len(self.images), 0, 0
        frozen = 3 * (count // self.batch)
        mirrored = torch.tensor(rng.random(count) < 0.5, device=self.device)
        while done < self.steps:
            order = torch.tensor(rng.permutation(count), device=self.device)
            offsets = torch.tensor(rng.integers(0, 2 * PAD + 1, (count, 2)), device=self.device)
            for first in range(0, count - self.batch + 1, self.batch):
                rows = order[first : first + self.batch]
                images = self._cropped(rows, offsets[rows], mirrored[rows] ^ bool(epoch % 2))
                net.whiten.bias.requires_grad = done < frozen
                net.train()
                loss = torch.nn.functional.cross_entropy(
                    net(images).float(), self.labels[rows], label_smoothing=SMOOTHING, reduction="sum"
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                done += 1
                if done % 5 == 0:
                    self._look_ahead(net, slow, 0.95**5 * (done / self.steps) ** 3)
                if done == self.steps:
                    self._look_ahead(net, slow, 1.0)
                    return
            epoch += 1

    def _optimizer(self, net: Any) -> tuple[Any, Any]:
        torch = self.torch
        thousand = 1024 * (1 + 1 / (1 - MOMENTUM))
        rate, decay = RATE / thousand, DECAY * self.batch / thousand
        trained = [(name, value) for name, value in net.named_parameters() if value.requires_grad]
        groups = []
        for scale, of_norms in ((BIAS_SCALE, True), (1.0, False)):
            params = [value for name, value in trained if ("norm" in name) is of_norms]
            groups.append({"params": params, "lr": rate * scale, "weight_decay": decay / (rate * scale)})
        optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)
        peak = max(int(0.23 * self.steps), 1)

        def shape(step: int) -> float:
            return 0.2 + 0.8 * step / peak if step <= peak else 1 - 0.93 * (step - peak) / (self.steps - peak)

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, shape)

    def _cropped(self, rows: Any, offsets: Any, mirrored: Any) -> Any:
        torch = self.torch
        side = torch.arange(self.images.shape[-1], device=self.device)
        down, across = offsets[:, :1] + side, offsets[:, 1:] + side
        across = torch.where(mirrored[:, None], across.flip(1), across)
        images = self.padded[rows[:, None, None], down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)
        return images.contiguous(memory_format=torch.channels_last)

    def _look_ahead(self, net: Any, slow: dict[str, Any], decay: float) -> None:
        fast = net.state_dict()
        for name, value in slow.items():
            if value.is_floating_point():
                value.lerp_(fast[name], 1 - decay)
                fast[name].copy_(value)

    def _accuracy(self, net: Any) -> float:
        from torch.nn import functional

        net.eval()

        def both(images: Any) -> Any:
            return 0.5 * net(images) + 0.5 * net(images.flip(-1))

        right = 0
        with self.torch.no_grad():
            for images, labels in zip(self.test_images.split(1000), self.test_labels.split(1000), strict=True):
                wide = functional.pad(images, (1,) * 4, "reflect")
                moved = both(wide[:, :, 0:32, 0:32]) + both(wide[:, :, 2:34, 2:34])
                right += int(((0.5 * both(images) + 0.25 * moved).argmax(1) == labels).sum())
        return right / len(self.test_labels)
