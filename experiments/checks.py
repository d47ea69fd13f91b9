"""`--check`: the sanity steps before training (Karpathy's recipe): loss at the start, gradients, one batch, baselines."""

import math
import tempfile
from typing import Any

from jaxdl.errors import UserError

STEPS = 200


def run_checks(experiment: Any, seed: int) -> None:
    """Prints each check.

    Raises:
      UserError: at the first that fails.
    """
    from jaxdl.engine.inspect import first_look, overfit

    print("checks before training", flush=True)
    if experiment.phases[0].source is None:
        print("  left out  loss, gradients and one batch: this task makes its own data", flush=True)
        return
    look = first_look(experiment, seed)
    loss, expected = look.metrics.get("loss"), experiment.expected_loss
    if expected is not None and loss is not None:
        text = f"{loss:.3f}; a uniform guess has {expected:.3f}"
        _line("loss at the start", text, abs(loss - expected) < 0.5 * expected)
    bad = [name for name, norm in look.gradient_norms.items() if not math.isfinite(norm)]
    zero = [name for name, norm in look.gradient_norms.items() if norm == 0.0]
    if look.gradient_norms:
        said = f"not finite in {', '.join(bad)}" if bad else f"finite in all {len(look.gradient_norms)} layers"
        _line("gradients", said + (f"; zero in {', '.join(zero)}" if zero else ""), not bad)
    else:
        print("  left out  gradients: this task has no probe of them", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        first, last = overfit(experiment, seed, STEPS, folder)
    if math.isnan(first):
        print("  left out  one batch: this task has no training loss", flush=True)
    else:
        _line("one batch can be learnt", f"loss {first:.3f} -> {last:.4f} in {STEPS} steps", last < 0.5 * first)
    for name, value, note in experiment.check() if experiment.check else []:
        print(f"  to beat  {name}: {value:.4f}{f' ({note})' if note else ''}", flush=True)


def _line(name: str, text: str, right: bool) -> None:
    print(f"  {'ok     ' if right else 'failed '}  {name}: {text}", flush=True)
    if not right:
        raise UserError(f"the check '{name}' failed ({text}): mend the model or its settings, or leave --check out")
