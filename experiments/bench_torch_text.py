"""nanoGPT's training step in PyTorch, in the ways that are fast there: eager, fused AdamW, scaled_dot_product_attention."""

from collections.abc import Callable
from typing import Any

import numpy as np

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


class Writer:
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
        self.batch, self.length, self.module = batch, length, network()
        decayed = [p for p in self.module.parameters() if p.ndim > 1]
        spared = [p for p in self.module.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
        fused = True if variant == "fused" else None
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=fused)

    def __call__(self, steps: int) -> None:
        """`steps` updates."""
        import torch

        loss: Any = None
        for _ in range(steps):
            starts = torch.randint(len(self.text) - self.length, (self.batch,))
            tokens = torch.stack([self.text[i : i + self.length] for i in starts])
            target = torch.stack([self.text[i + 1 : i + 1 + self.length] for i in starts])
            logits = self.module(tokens)
            loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), target.view(-1))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
        loss.item()
