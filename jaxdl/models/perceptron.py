"""Perceptrons: threshold units, networks of them, and boolean functions compiled to NAND gates.

Inputs and outputs are 0 or 1 (float32). A tie, Σ w x = threshold, gives 0.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array
Layers = tuple[tuple[Array, Array], ...]

NAND_WEIGHTS = (-2.0, -2.0)
NAND_BIAS = 3.0


def threshold_unit(x: Array, weights: Array, threshold: Array | float) -> Array:
    """1 where Σ_i w_i x_i > threshold, else 0; x [..., n], weights [n] give [...]."""
    return (x @ weights > threshold).astype(jnp.float32)


def perceptron(x: Array, weights: Array, bias: Array | float) -> Array:
    """1 where x·w + b > 0, else 0: `threshold_unit` with b = −threshold.

    Args:
      x: [..., n].
      weights: [n] for one perceptron, [n, m] for a layer of m.
      bias: scalar or [m].

    Returns:
      [...] or [..., m], float32.
    """
    return (x @ weights + bias > 0).astype(jnp.float32)


def threshold_network(layers: Layers, x: Array) -> Array:
    """A feed-forward network of perceptrons: each layer (W [n, m], b [m]) sees the outputs of the one before."""
    for weights, bias in layers:
        x = perceptron(x, weights, bias)
    return x


def sigmoid_network(layers: Layers, x: Array) -> Array:
    """The same network of sigmoid neurons, σ(x·W + b) in each layer.

    Args:
      layers: (W [n, m], b [m]) of each.
      x: [..., n] for the n of the first.

    Returns:
      [..., m] for the m of the last.
    """
    for weights, bias in layers:
        x = jax.nn.sigmoid(x @ weights + bias)
    return x


def scaled(layers: Layers, c: float) -> Layers:
    """All weights and biases times c.

    A network of perceptrons does the same for any c > 0. A sigmoid network turns into the network of perceptrons as
    c → ∞, where no weighted input is exactly 0: there σ stays 1/2.
    """
    return tuple((c * weights, c * bias) for weights, bias in layers)


def perceptron_update(weights: Array, bias: Array, x: Array, target: Array, rate: float = 1.0) -> tuple[Array, Array]:
    """Rosenblatt's rule, summed over a batch: w ← w + rate · Σ (t − y) x, b ← b + rate · Σ (t − y).

    Args:
      weights: [n].
      bias: scalar.
      x: [B, n].
      target: [B], 0 or 1.
      rate: step size.
    """
    error = target - perceptron(x, weights, bias)
    return weights + rate * error @ x, bias + rate * error.sum()


@dataclasses.dataclass(frozen=True)
class NandNetwork:
    """A circuit of NAND gates.

    Wires 0 … inputs − 1 are the inputs; gate g drives wire inputs + g.

    Attributes:
      inputs: number of inputs, n.
      gates: the two wires that each gate reads, all of smaller number than its own.
      outputs: the wires that are the results.
    """

    inputs: int
    gates: tuple[tuple[int, int], ...]
    outputs: tuple[int, ...]

    def __call__(self, x: Array) -> Array:
        """Evaluates the circuit, each gate a perceptron: [..., inputs] to [..., len(outputs)]."""
        wires = [x[..., i] for i in range(self.inputs)]
        for a, b in self.gates:
            pair = jnp.stack([wires[a], wires[b]], -1)
            wires.append(perceptron(pair, jnp.asarray(NAND_WEIGHTS), NAND_BIAS))
        return jnp.stack([wires[i] for i in self.outputs], -1)

    def layers(self) -> Layers:
        """The circuit as a layered network for `threshold_network`.

        Layer d computes the gates of depth d and hands all earlier wires on (a perceptron with weight 2, bias −1);
        the last layer hands on the outputs.
        """
        depths = [0] * self.inputs
        for a, b in self.gates:
            depths.append(1 + max(depths[a], depths[b]))
        layers = []
        known = list(range(self.inputs))
        for depth in range(1, max(depths) + 1):
            after = known + [i for i, d in enumerate(depths) if d == depth]
            layers.append(self._layer(known, after))
            known = after
        layers.append(self._layer(known, list(self.outputs)))
        return tuple(layers)

    def _layer(self, known: list[int], after: list[int]) -> tuple[Array, Array]:
        place = {wire: i for i, wire in enumerate(known)}
        weights, biases = jnp.zeros((len(known), len(after))), []
        for column, wire in enumerate(after):
            if wire in place:
                weights = weights.at[place[wire], column].set(2.0)
                biases.append(-1.0)
            else:
                for source, weight in zip(self.gates[wire - self.inputs], NAND_WEIGHTS, strict=True):
                    weights = weights.at[place[source], column].add(weight)
                biases.append(NAND_BIAS)
        return weights, jnp.asarray(biases)


def compile_nand(*tables: Sequence[int]) -> NandNetwork:
    """Compiles boolean functions of the same n inputs to one circuit of NAND gates.

    Shannon's expansion by the first input, f = (x ∧ f₁) ∨ (¬x ∧ f₀) = NAND(NAND(x, f₁), NAND(¬x, f₀)), with equal
    sub-functions built once.

    Args:
      *tables: truth tables, each with 2ⁿ entries 0 or 1; entry i is the value for the inputs that spell i in binary,
        the first input being the highest bit.

    Raises:
      ValueError: if a table's length is not 2ⁿ with n ≥ 1, lengths differ, or an entry is neither 0 nor 1.
    """
    size = len(tables[0]) if tables else 0
    inputs = size.bit_length() - 1
    if size < 2 or size != 1 << inputs or any(len(t) != size or not set(t) <= {0, 1} for t in tables):
        raise ValueError("truth tables must all have the same 2^n entries, n >= 1, each 0 or 1")
    gates: list[tuple[int, int]] = []
    made: dict[tuple[int, int], int] = {}

    def nand(a: int, b: int) -> int:
        pair = (min(a, b), max(a, b))
        if pair not in made:
            gates.append(pair)
            made[pair] = inputs + len(gates) - 1
        return made[pair]

    def negate(wire: int) -> int:
        gate = gates[wire - inputs] if wire >= inputs else (-1, -2)
        return gate[0] if gate[0] == gate[1] else nand(wire, wire)

    def build(table: tuple[int, ...], x: int) -> int:
        if len(set(table)) == 1:
            true = nand(0, negate(0))
            return true if table[0] else negate(true)
        low, high = table[: len(table) // 2], table[len(table) // 2 :]
        if low == high:
            return build(low, x + 1)
        terms = []
        for selector, branch in ((x, high), (negate(x), low)):
            if all(branch):
                terms.append(negate(selector))
            elif any(branch):  # a branch that is always 0 adds nothing to the disjunction
                terms.append(nand(selector, build(branch, x + 1)))
        return nand(*terms) if len(terms) == 2 else negate(terms[0])

    outputs = tuple(build(tuple(int(v) for v in table), 0) for table in tables)
    return NandNetwork(inputs, tuple(gates), outputs)


def half_adder() -> NandNetwork:
    """Two bits to (sum, carry): x₁ xor x₂ and x₁ and x₂."""
    return compile_nand((0, 1, 1, 0), (0, 0, 0, 1))
