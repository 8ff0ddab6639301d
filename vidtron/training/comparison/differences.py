"""Two recordings held against each other, in the order of computation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vidtron.training.comparison.recorder import EMBEDDED, OUTPUT
from vidtron.training.comparison.recording import Name, Piece, Recording

KINDS = ("hidden states", "loss", "gradients", "gradient norm", "weights")


@dataclass(frozen=True)
class Bands:
    """The largest relative differences that are rounding alone."""

    states: float
    """Of a sample's hidden states after a layer, over their norm."""
    loss: float
    gradients: float
    """Of one weight's gradient, over its norm."""
    floor: float
    """A gradient smaller than this part of the whole gradient is measured by this part instead: its terms cancel, and
    the rounding is that of the terms."""
    norm: float
    """Of the gradient norm."""
    updates: float
    """Of one weight, over the norm of all its updates so far."""
    why: str

    @property
    def zero(self) -> float:
        """A gradient that is a smaller part of the whole gradient is rounding for so large a part that Adam, which
        divides it by its own size, makes noise of it; the weight is not judged."""
        return self.gradients * self.floor / self.updates

    def times(self, factor: float) -> "Bands":
        """Wider or narrower ones."""
        names = ("states", "loss", "gradients", "norm", "updates")
        return replace(self, **{name: factor * getattr(self, name) for name in names})


FP32 = Bands(
    states=1e-5,
    loss=1e-5,
    gradients=1e-4,
    floor=1e-3,
    norm=1e-5,
    updates=1e-2,
    why="fp32 rounds by 6e-8; layouts add the same numbers in another order, and layers and Adam enlarge that",
)
BF16 = Bands(
    states=3e-2,
    loss=1e-2,
    gradients=1e-1,
    floor=3e-3,
    norm=1e-2,
    updates=5e-1,
    why="bf16 rounds by 4e-3, at other places under each layout; Adam turns the sign of the smallest gradients",
)


@dataclass(frozen=True)
class Difference:
    """One tensor or number of a run beside the reference's."""

    name: Name
    relative: float
    """NaN where one of them has no finite value."""
    accepted: float
    piece: Piece | None = None
    """The box in which the difference is largest; None: a number."""
    remark: str = ""

    @property
    def is_accepted(self) -> bool:
        """NaN is not."""
        return self.relative <= self.accepted


class Comparison:
    """A run's recording beside that of the reference."""

    def __init__(self, reference: Recording, run: Recording, bands: Bands) -> None:
        self.reference, self.run, self.bands = reference, run, bands
        self.largest = dict.fromkeys(KINDS, 0.0)
        """The largest relative difference of each kind; NaN once there is one."""
        self.first: Difference | None = None
        """The first in the order of computation that is not accepted."""
        self.beyond = 0
        """How many are not."""
        self.tensors = 0
        self.not_judged: set[str] = set()
        """Weights whose gradient is zero up to rounding."""
        for difference in self._all():
            kind = {"states": "hidden states"}.get(difference.name.kind, difference.name.kind)
            known = self.largest[kind]
            if not (math.isnan(known) or difference.relative <= known):
                self.largest[kind] = difference.relative
            self.tensors += difference.piece is not None
            if not difference.is_accepted:
                self.beyond += 1
                self.first = self.first or difference

    def _all(self) -> Iterator[Difference]:
        order = {key: place for place, key in enumerate(self.reference.order)}
        names = {*self.reference.entries, *self.run.entries}
        steps = max(len(self.reference.steps), len(self.run.steps))
        for step in range(steps + 1):
            kinds: dict[str, list[Name]] = {"states": [], "gradients": [], "weights": []}
            for name in names:
                if name.step == step:
                    kinds[name.kind].append(name)
            states = sorted(kinds["states"], key=lambda name: (_depth(name.key), name.sample or 0))
            yield from (self._state(name) for name in states)
            if step:
                yield self._number(step, "loss", self.bands.loss)
            squares = {name: self._square(name) for name in kinds["gradients"] if name in self.reference.entries}
            whole = math.sqrt(sum(squares.values()))
            # The backward pass goes through the weights the other way.
            for name in sorted(kinds["gradients"], key=lambda name: order.get(name.key, 0), reverse=True):
                yield self._gradient(name, math.sqrt(squares.get(name, 0.0)), whole)
            if step:
                yield self._number(step, "gradient norm", self.bands.norm)
            for name in sorted(kinds["weights"], key=lambda name: order.get(name.key, 0)):
                yield self._weight(name)

    def _square(self, name: Name) -> float:
        return float(self.reference.whole(name).double().square().sum())

    def _number(self, step: int, kind: str, accepted: float) -> Difference:
        found = [one.steps[step - 1] for one in (self.reference, self.run) if len(one.steps) >= step]
        if len(found) < 2:
            return Difference(Name(step, kind, kind), math.nan, accepted, remark="one of the runs has no such step")
        expected, value = (one.loss if kind == "loss" else one.gradient_norm for one in found)
        relative = abs(value - expected) / abs(expected) if expected else abs(value)
        return Difference(Name(step, kind, kind), relative, accepted, remark=f"{value:.9g} instead of {expected:.9g}")

    def _state(self, name: Name) -> Difference:
        return self._tensor(name, self.bands.states)

    def _gradient(self, name: Name, norm: float, whole: float) -> Difference:
        if 0 < norm < self.bands.zero * whole:  # exact zeros leave the weight alone
            self.not_judged.add(name.key)
        return self._tensor(name, self.bands.gradients, least=self.bands.floor * whole)

    def _weight(self, name: Name) -> Difference:
        if name.step == 0:
            return self._tensor(name, 0.0)
        if name.key in self.not_judged:
            return Difference(name, 0.0, self.bands.updates)
        return self._tensor(name, self.bands.updates, start=Name(0, "weights", name.key))

    def _tensor(self, name: Name, accepted: float, *, least: float = 0.0, start: Name | None = None) -> Difference:
        """How far a tensor is from the reference's, over the norm of that, or of its way from `start`, or `least`."""
        mine, theirs = self.run.entries.get(name), self.reference.entries.get(name)
        if mine is None or theirs is None:
            which = "the reference" if theirs is None else "this layout"
            piece = (mine or theirs).pieces[0]  # type: ignore[union-attr]
            return Difference(name, math.nan, accepted, piece, f"{which} has no such tensor")
        if mine.shape != theirs.shape:
            return Difference(
                name, math.nan, accepted, mine.pieces[0], f"shape {mine.shape} instead of {theirs.shape}"
            )
        expected = self.reference.whole(name)
        scale = expected if start is None else expected - self.reference.whole(start)
        norm = max(least, _norm(scale))
        squares: dict[tuple[int, ...], tuple[float, Piece]] = {}
        covered: dict[tuple[int, ...], int] = {}
        for piece in mine.pieces:
            if piece.start is None:
                continue
            square = float((self.run.values(piece) - expected[piece.slices]).double().square().sum())
            covered[piece.offset] = math.prod(piece.shape)
            if piece.offset not in squares or not square <= squares[piece.offset][0]:
                squares[piece.offset] = square, piece
        if sum(covered.values()) != expected.numel():
            return Difference(name, math.nan, accepted, mine.pieces[0], "no rank has written a part of it")
        worst = max(squares.values(), key=lambda one: math.inf if math.isnan(one[0]) else one[0], default=None)
        total = math.sqrt(sum(square for square, _ in squares.values()))
        relative = total / norm if norm else (0.0 if total == 0 else math.nan if math.isnan(total) else math.inf)
        difference = Difference(name, relative, accepted, worst[1] if worst else mine.pieces[0])
        copies = next(self.run.copies_that_differ(name), None)
        if copies is not None and difference.is_accepted:
            first, other = copies
            remark = f"its copies on ranks {first.rank} and {other.rank} are not the same bits"
            return Difference(name, math.nan, accepted, other, remark)
        return difference


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))


def _depth(key: str) -> tuple[int, int]:
    """Where hidden states come in the forward pass."""
    if key == EMBEDDED:
        return 0, 0
    return (2, 0) if key == OUTPUT else (1, int(key.rpartition(".")[2]))


def told(comparison: Comparison) -> list[str]:
    """The first difference beyond its band: what it is, how large, and where it was made."""
    first = comparison.first
    if first is None:
        return []
    name, run = first.name, comparison.run
    step = f"step {name.step}" if name.step else "before the first step"
    what = {
        "states": f"{'' if name.key in (EMBEDDED, OUTPUT) else 'output of '}{name.key}, sample {name.sample}",
        "gradients": f"gradient of {name.key}",
        "weights": f"weight {name.key}",
    }.get(name.kind, f"the {name.kind}")
    size = f"relative difference {first.relative:.2g}, accepted {first.accepted:.2g}"
    lines = [
        f"{step}: {what}: {first.remark or size}" + (f" ({size})" if first.remark and first.piece is None else "")
    ]
    if first.piece is not None and first.piece.rank in run.places and name in run.entries:
        piece = first.piece
        box = " x ".join(f"{one.start}:{one.stop}" for one in piece.slices) or "all of it"
        of = " x ".join(map(str, run.entries[name].shape))
        lines.append(f"largest in [{box}] of [{of}], on {run.place(piece.rank)}")
    maker = run.modules.get(name.key)
    if maker is not None:
        verb = "made by" if name.kind == "states" else "a weight of"
        lines.append(f"{verb} {maker}" + (f" in {name.key.rpartition('.')[0]}" if name.kind != "states" else ""))
    before = {
        "states": "all that comes before it in the forward pass agrees",
        "loss": "the network's output agrees: look at the objective and at how losses are summed",
        "gradients": "the forward pass and the gradients of all that comes after it agree: look at its backward pass, "
        "or at how its gradient is summed over ranks",
        "gradient norm": "all gradients agree: look at how their norm is summed over ranks",
        "weights": "all gradients agree: look at clipping and optimizer"
        if name.step
        else "look at how the weights are initialized or loaded",
    }[name.kind]
    return [*lines, before]
