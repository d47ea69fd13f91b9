"""What a compiled program does, read from its HLO text: products, bytes to and from memory, collectives.

XLA's own cost analysis counts the body of a loop once; here it counts as often as it runs, where the text tells.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_WIDE = {"pred": 1, "bf16": 2, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
# they move nothing: names for what lies in memory already, or ends of what was counted at its start
_FREE = (
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"),
    *("optimization-barrier", "add-dependency", "async-update"),
)
# products and convolutions that XLA:GPU has given to a library
_LIBRARY = re.compile(r'custom_call_target="__(cublas|cudnn\$conv)')
_READ_PARTLY = ("dynamic-slice", "gather", "slice")


@dataclass(frozen=True)
class Array:
    """One array of a shape: its dimensions, bytes, and whether it lies in main memory (else in the chip's own)."""

    dims: tuple[int, ...]
    size: float
    main: bool


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def called(self, key: str) -> str | None:
        """The computation that an attribute names: called("body")."""
        found = re.search(rf"\b{key}=%([\w.\-]+)", self.attributes)
        return found[1] if found else None

    @property
    def branches(self) -> list[str]:
        """The computations of a conditional."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if listed:
            return _NAME.findall(listed[1])
        return [name for key in ("true_computation", "false_computation") if (name := self.called(key))]


@dataclass
class Totals:
    """What one execution does on one device.

    Attributes:
      flops: of matrix products and convolutions, two for each multiplication with its addition.
      bytes: to and from main memory.
      collectives: kind -> (how many, bytes of the larger of what goes in and what comes out, all together).
      groups: kind -> {devices that take part in one: bytes}; 0 devices stands for all.
      unknown_loops: loops whose length the text does not tell; each is counted as one pass.
    """

    flops: float = 0.0
    bytes: float = 0.0
    collectives: dict[str, tuple[int, float]] = field(default_factory=dict)
    groups: dict[str, dict[int, float]] = field(default_factory=dict)
    unknown_loops: int = 0

    def add(self, other: "Totals", times: int = 1) -> None:
        """Adds `times` executions of what `other` describes."""
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        self.unknown_loops += other.unknown_loops
        for kind, (count, size) in other.collectives.items():
            before = self.collectives.get(kind, (0, 0.0))
            self.collectives[kind] = (before[0] + times * count, before[1] + times * size)
        for kind, parts in other.groups.items():
            own = self.groups.setdefault(kind, {})
            for devices, size in parts.items():
                own[devices] = own.get(devices, 0.0) + times * size


def totals(text: str) -> Totals:
    """The totals of a compiled module, from `compiled.as_text()`.

    Raises:
      ValueError: if there is no entry computation in the text.
    """
    computations, entry = parse(text)
    return _Counter(computations).of(entry)


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations by name, and the entry's name; see `totals`."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line)
        if head:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _instruction(line)):
            current.append(found)
    if not entry:
        raise ValueError("this is no HLO module: it has no ENTRY computation")
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    call = re.match(r"\s*([\w\-]+)\(", rest[end:])
    if not call:
        return None
    first = end + call.end() - 1
    last = _closing(rest, first)
    operands = tuple(_NAME.findall(rest[first:last]))
    # the number of a parameter and the value of a constant stand where others have their operands
    attributes = rest[first + 1 : last] + rest[last + 1 :] if call[1] in ("parameter", "constant") else rest[last + 1 :]
    return Instruction(head[2], call[1], tuple(_arrays(rest[:end])), operands, attributes, bool(head[1]))


def _closing(text: str, first: int) -> int:
    depth = 0
    for i in range(first, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"unbalanced parentheses in HLO: {text[:80]}")


def _arrays(shape: str) -> Iterator[Array]:
    for kind, dims, layout in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", shape)):
        bits = re.match(r"[a-z]+(\d+)", kind)
        width = _WIDE[kind] if kind in _WIDE else int(bits[1]) / 8 if bits else 0
        sizes = tuple(int(d.removeprefix("<=")) for d in dims.split(",") if d)
        yield Array(sizes, width * math.prod(sizes), not re.search(r"S\([1-9]", layout))


class _Counter:
    """Adds up computations, each once."""

    def __init__(self, computations: dict[str, list[Instruction]]):
        self.computations = computations
        self.named = {name: {i.name: i for i in body} for name, body in computations.items()}
        self.known: dict[str, Totals] = {}

    def of(self, name: str) -> Totals:
        if name not in self.known:
            found = Totals()
            for instruction in self.computations[name]:
                found.add(self._instruction(name, instruction))
            self.known[name] = found
        return self.known[name]

    def _instruction(self, where: str, i: Instruction) -> Totals:
        operands = [self.named[where][name] for name in i.operands if name in self.named[where]]
        if i.opcode == "while":
            return self._loop(i)
        if i.opcode == "conditional":  # the most expensive branch
            return max((self.of(name) for name in i.branches), key=lambda t: (t.flops, t.bytes), default=Totals())
        if i.opcode in ("call", "async-start"):
            called = i.called("to_apply") or i.called("calls")
            return self.of(called) if called else Totals()
        if _LIBRARY.search(i.attributes):
            i = dataclasses.replace(i, arrays=i.arrays[:1])  # the others are the library's room to work in
        found = Totals(bytes=self._bytes(i, operands))
        if i.opcode == "fusion" and (called := i.called("calls")):
            inner = self.of(called)
            found.add(Totals(flops=inner.flops, collectives=inner.collectives, groups=inner.groups))
        elif i.opcode in ("dot", "convolution", "custom-call"):
            found.flops = _flops(i, operands)
        kind = i.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            moved = _moved(i, operands)
            found.collectives, found.groups = {kind: (1, moved)}, {kind: {_group(i): moved}}
        return found

    def _loop(self, i: Instruction) -> Totals:
        body, condition = i.called("body"), i.called("condition")
        times = self._trips(i, condition)
        found = Totals(unknown_loops=times is None)
        if body:
            found.add(self.of(body), 1 if times is None else times)
        return found

    def _trips(self, i: Instruction, condition: str | None) -> int | None:
        """XLA's own number, or the constant that a counter from zero is compared with; None where there is none."""
        known = re.search(r'known_trip_count"?[:=]\s*\{"?n"?[:=]\s*"?(\d+)', i.attributes)
        if known:
            return int(known[1])
        body = self.named.get(condition or "", {})
        root = next((each for each in body.values() if each.root), None)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        bounds = [body[name] for name in root.operands if name in body and body[name].opcode == "constant"]
        value = re.match(r"(\d+)", bounds[0].attributes) if len(bounds) == 1 else None
        return int(value[1]) if value else None

    # --- bytes to and from main memory ------------------------------------------------------------------------------

    def _bytes(self, i: Instruction, operands: list[Instruction]) -> float:
        if i.opcode in _FREE or i.opcode.endswith("-done"):
            return 0.0
        written = _main(i)
        if i.opcode in _READ_PARTLY:
            return written + (_whole(i) if any(a.main for a in operands[0].arrays) else 0.0)
        if i.opcode == "dynamic-update-slice":
            return (_whole(operands[1]) if written else 0.0) + _main(operands[1])
        if i.opcode == "fusion" and (called := i.called("calls")):
            return self._fusion_bytes(called, i, operands)
        if i.opcode == "copy-start":  # (to, from, ...)
            return sum(array.size for array in i.arrays[:2] if array.main)
        if i.opcode in ("slice-start", "dynamic-slice-start"):  # (whole, part, ...)
            return i.arrays[1].size * (i.arrays[0].main + i.arrays[1].main)
        return written + sum(map(_main, operands))

    def _fusion_bytes(self, called: str, i: Instruction, operands: list[Instruction]) -> float:
        """A fusion reads of an operand only what it slices from it, and writes only what it updates in place."""
        body = self.computations[called]
        parameters = {int(p.attributes.split(")")[0].split(",")[0]): p for p in body if p.opcode == "parameter"}
        total = 0.0
        for number, operand in enumerate(operands):
            parameter = parameters.get(number)
            share = None if parameter is None else self._sliced(called, parameter)
            total += _main(operand) if share is None else min(share, _main(operand))
        root = next((each for each in body if each.root), None)
        updated = None if root is None else self._updated(called, root)
        return total + (_main(i) if updated is None else min(updated, _main(i)))

    def _sliced(self, called: str, parameter: Instruction) -> float | None:
        """Bytes that slices take of a fusion's parameter; None where something takes the whole."""
        total = 0.0
        for user in self.computations[called]:
            if parameter.name not in user.operands:
                continue
            if user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
                continue  # in place: what is not updated stays
            if user.opcode not in _READ_PARTLY or user.operands[0] != parameter.name:
                return None
            total += _whole(user)
        return total

    def _updated(self, called: str, root: Instruction) -> float | None:
        """Bytes that a fusion writes where its root updates a part in place; None where it writes all."""
        names = self.named[called]
        parts = [names[name] for name in root.operands if name in names] if root.opcode == "tuple" else [root]
        if not any(part.opcode == "dynamic-update-slice" for part in parts):
            return None
        return sum(_whole(names[p.operands[1]]) if p.opcode == "dynamic-update-slice" else _whole(p) for p in parts)


def _main(i: Instruction) -> float:
    return sum(array.size for array in i.arrays if array.main)


def _whole(i: Instruction) -> float:
    return sum(array.size for array in i.arrays)


def _moved(i: Instruction, operands: list[Instruction]) -> float:
    given, result = sum(map(_whole, operands)), _whole(i)
    if i.opcode in ("all-gather-start", "collective-permute-start"):  # their result names the operand too
        result = max(result - given, given)
    return max(given, result)


def _group(i: Instruction) -> int:
    """How many devices take part in a collective; 0: all. XLA writes [groups,devices], lists, or axes of a mesh."""
    if shape := re.search(r"replica_groups=\[\d+,(\d+)\]", i.attributes):
        return int(shape[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", i.attributes):
        return len(listed[1].split(","))
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", i.attributes)
    if mesh is None:
        return 0
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
    return math.prod(int(part or sizes[name]) for name, part in re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2]))


def _flops(i: Instruction, operands: list[Instruction]) -> float:
    """Of a product or a convolution, also one that XLA:GPU has given to a library; 0 of any other call."""
    if i.opcode != "custom-call":
        return _dot_flops(i, operands) if i.opcode == "dot" else _convolution_flops(i, operands)
    library = _LIBRARY.search(i.attributes)
    if library is None:
        return 0.0
    return _dot_flops(i, operands) if library[1] == "cublas" else _convolution_flops(i, operands)


def _dot_flops(i: Instruction, operands: list[Instruction]) -> float:
    dims = operands[0].arrays[0].dims
    # a library's call has them in JSON
    contracted = re.search(r'lhs_contracting_dim\w*"?[=:][\[{]([\d,"]*)[\]}]', i.attributes)
    axes = [int(axis) for axis in contracted[1].replace('"', "").split(",") if axis] if contracted else []
    return 2.0 * math.prod(i.arrays[0].dims) * math.prod([dims[axis] for axis in axes])


def _convolution_flops(i: Instruction, operands: list[Instruction]) -> float:
    """Multiplications with numbers that are there: neither padding nor the zeros of a dilated input.

    The labels name the axes of input, kernel and output; a library's gradient has one of these as its result and the others
    as operands.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.attributes)
    if labels is None or len(operands) < 2:
        return 0.0
    first, second, result = operands[0].arrays[0], operands[1].arrays[0], i.arrays[0]
    arrays = (first, second, result)
    if "convBackwardFilter" in i.attributes:
        arrays = (first, result, second)
    elif "convBackwardInput" in i.attributes:
        arrays = (result, second, first)
    named = zip(labels.groups(), arrays, strict=True)
    lhs, kernel, out = (dict(zip(names, array.dims, strict=True)) for names, array in named)
    window = re.search(r"window=\{([^}]*)\}", i.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    total = 2.0 * out["b"] * out["f"] * kernel["i"]
    for number, name in enumerate(sorted(name for name in out if name.isdigit())):
        pick = {key: value.split("x")[number] for key, value in settings.items()}
        low = int(pick.get("pad", "0_0").split("_")[0])
        strides = [int(pick.get(key, 1)) for key in ("stride", "rhs_dilate", "lhs_dilate")]
        total *= _hits(out[name], int(pick.get("size", 1)), lhs[name], low, *strides)
    return total


def _hits(out: int, kernel: int, size: int, low: int, stride: int, dilation: int, spread: int) -> int:
    """How many (output, kernel) positions of one axis meet a number of the input."""
    found = 0
    for k in range(kernel):
        for o in range(out):
            at = o * stride + k * dilation - low
            found += at >= 0 and at % spread == 0 and at // spread < size
    return found
