"""Language models in PyTorch, in the ways that are fast there: fused optimisers, scaled_dot_product_attention, nn.LSTM."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import bench_torch

VARIANTS = ("eager", "fused")


def gpt(vocabulary: int, length: int = 64, layers: int = 4, heads: int = 4, features: int = 128) -> Any:
    """`jaxdl.models.transformer.TransformerLM` as nanoGPT writes it: no biases, tied scores, no dropout."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = (nn.LayerNorm(features, bias=False) for _ in range(2))
            self.qkv, self.project = (nn.Linear(features, n * features, bias=False) for n in (3, 1))
            self.hidden, self.output = (
                nn.Linear(features, 4 * features, bias=False),
                nn.Linear(4 * features, features, bias=False),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows, size, _ = x.shape
            q, k, v = (
                a.view(rows, size, heads, -1).transpose(1, 2) for a in self.qkv(self.norm1(x)).split(features, dim=2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(y.transpose(1, 2).contiguous().view(rows, size, features))
            return x + self.output(F.gelu(self.hidden(self.norm2(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.place = nn.Embedding(vocabulary, features), nn.Embedding(length, features)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm = nn.LayerNorm(features, bias=False)
            self.scores = nn.Linear(features, vocabulary, bias=False)
            self.scores.weight = self.embedding.weight
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.embedding(tokens) + self.place(torch.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.scores(self.norm(x))

    return GPT()


def lstm(vocabulary: int, features: tuple[int, ...] = (256, 256), embedding: int = 64, dropout: float = 0.2) -> Any:
    """`jaxdl.models.rnn.RecurrentLM` by `nn.LSTM`, time first; its second bias of each layer adds nothing."""
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, embedding)
            self.layers = nn.LSTM(embedding, features[0], len(features), dropout=dropout)
            self.drop, self.scores = nn.Dropout(dropout), nn.Linear(features[0], vocabulary)

        def forward(self, tokens: Any, carry: Any) -> tuple[Any, Any]:
            h, carry = self.layers(self.embedding(tokens), carry)
            return self.scores(self.drop(h)), carry

    return Recurrent()


class Writer(bench_torch.Loop):
    """AdamW with a clipped norm on random windows of a text, nanoGPT's loop.

    Args:
      network: makes the module.
      text: token numbers [n].
      batch: rows of a batch.
      length: tokens of a row.
      variant: one of VARIANTS.
    """

    def __init__(self, network: Callable[[], Any], text: np.ndarray, batch: int, length: int, variant: str):
        import torch

        torch.manual_seed(0)
        self.text = torch.from_numpy(np.asarray(text).astype(np.int64))
        self.batch, self.places = batch, torch.arange(length + 1)
        module = network()
        decayed = [p for p in module.parameters() if p.ndim > 1]
        spared = [p for p in module.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
        fused = True if variant == "fused" else None
        super().__init__(module, torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=fused), 1.0)

    def next_loss(self) -> Any:
        """See `Loop`."""
        import torch

        starts = torch.randint(len(self.text) - len(self.places), (self.batch, 1))
        windows = self.text[starts + self.places]
        logits = self.module(windows[:, :-1])
        return torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), windows[:, 1:].reshape(-1))


class StreamWriter(bench_torch.Loop):
    """Adam with a clipped norm by truncated backpropagation through time; arguments as `Writer`'s."""

    def __init__(self, network: Callable[[], Any], text: np.ndarray, batch: int, length: int, variant: str):
        import torch

        torch.manual_seed(0)
        size = len(text) // batch
        # time first, so that a chunk is one piece of memory
        streams = np.asarray(text[: size * batch]).reshape(batch, size).T.astype(np.int64)
        self.streams, self.length, self.position = torch.from_numpy(np.ascontiguousarray(streams)), length, 0
        self.carry: Any = None
        module = network()
        super().__init__(module, bench_torch.adam(module, variant, 4e-3), 1.0)

    def next_loss(self) -> Any:
        """See `Loop`."""
        import torch

        if self.position + self.length >= len(self.streams):
            self.position, self.carry = 0, None
        chunk = self.streams[self.position : self.position + self.length + 1]
        self.position += self.length
        logits, carry = self.module(chunk[:-1], self.carry)
        self.carry = tuple(part.detach() for part in carry)
        return torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), chunk[1:].reshape(-1))
