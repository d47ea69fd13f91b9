"""Deep-learning model families as pure Flax modules on one functional engine."""

from typing import Any


def __getattr__(name: str) -> Any:
    # lazily, because the recipes lie above this package and importing jaxdl must stay cheap
    if name == "fit":
        from experiments.session import fit

        return fit
    raise AttributeError(f"module 'jaxdl' has no attribute {name!r}")
