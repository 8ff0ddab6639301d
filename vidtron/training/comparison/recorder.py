"""Writes down what a run computes, in the order in which it does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.mapping import is_main_replica
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from vidtron.checkpoint.ema import EmaPart, sharded_ema
from vidtron.checkpoint.ema_names import ema_key
from vidtron.checkpoint.state import sharded_state
from vidtron.models.layers.chunk import TransformerChunk
from vidtron.models.layers.conditioning import Conditioning
from vidtron.models.layers.initialization import global_names
from vidtron.parallel import Groups
from vidtron.parallel.tokens import Box
from vidtron.training.assembly import TrainedModel
from vidtron.training.comparison.recording import Name, Writer
from vidtron.training.observation import Observer
from vidtron.training.optimizer import masters
from vidtron.training.step_report import StepReport

EMBEDDED = "tokens that enter the layers"
"""Key of the first layer's input."""
OUTPUT = "output of the network"
STOPPED = "observer"

WriteState = Callable[[str, int, Box], None]
"""(key, sample, the part of it that this rank has)."""


class Recorder(Observer):
    """Records the first steps of a run and then ends it.

    Of each step: the hidden states after each layer and the network's output, sample by sample; the gradients, whole
    over all replicas and not clipped; the weights that the optimizer has made of them, in fp32.
    """

    def __init__(self, folder: Path, steps: int, *, hidden_states: bool = True) -> None:
        """
        Args:
            folder: of the recording; made.
            steps: to record.
            hidden_states: record them.
        """
        self.folder, self.steps, self.hidden_states = folder, steps, hidden_states
        self._step = 1
        self._watches: list[_ChunkWatch] = []

    def before_training(self, model: TrainedModel, groups: Groups) -> None:
        """Open the files, write the weights of the start, and look into the modules from now on."""
        self._groups = groups
        place = {
            name: (group.rank(), group.size())
            for name, group in (
                ("tensor", groups.tp),
                ("pipeline stage", groups.pp),
                ("context", groups.cp),
                ("data", groups.dp),
            )
        }
        self._writer = Writer(self.folder, groups.rank, place)
        self._write(0, "weights", model, _weights)
        for number, module in enumerate(model.modules):
            chunk = groups.pp.rank() + groups.pp.size() * number
            write = self._write_state if self.hidden_states else None
            self._watches.append(_ChunkWatch(module, chunk, groups, write))

    def after_backward(self, model: TrainedModel) -> None:
        """Write the gradients."""
        for watch in self._watches:
            watch.tell_order(self._writer)
        self._write(self._step, "gradients", model, _gradients)

    def after_update(self, model: TrainedModel, outcome: StepReport) -> str | None:
        """Write the weights; the run ends with the last of the steps."""
        self._write(self._step, "weights", model, _weights)
        if self._groups.rank == 0:
            self._writer.note("step", {"loss": outcome.loss, "gradient_norm": outcome.gradient_norm})
        self._writer.flush()
        self._step += 1
        if self._step <= self.steps:
            return None
        self._writer.close()
        for watch in self._watches:
            watch.end()
        return STOPPED

    def _write_state(self, key: str, sample: int, part: Box) -> None:
        self._writer.write(Name(self._step, "states", key, sample), part.values, part.offset, part.whole)

    def _write(self, step: int, kind: str, model: TrainedModel, parts: Any) -> None:
        tensors = sharded_ema(
            {kind: list(parts(model))}, sharded_state(model.chunks, None, self._groups, is_loading=False)
        )
        for tensor in tensors[kind].values():
            self._writer.write(
                Name(step, kind, tensor.key.removeprefix(ema_key(kind, ""))),
                tensor.data,
                tensor.global_offset,
                tensor.global_shape,
                digest_only=not is_main_replica(tensor.replica_id),
            )


def _weights(model: TrainedModel) -> Iterator[EmaPart]:
    """What this rank's optimizer keeps of the weights, fp32."""
    for master in masters(model.optimizer):
        yield EmaPart(master.weight, master.first, master.values, master.copy)


def _gradients(model: TrainedModel) -> Iterator[EmaPart]:
    """The gradients of the same elements, as DDP has reduced them; of a divided buffer only they are whole."""
    for master in masters(model.optimizer):
        gradient = master.weight.main_grad.detach().view(-1)  # type: ignore[attr-defined]
        own = gradient[master.first : master.first + master.values.numel()].float()
        yield EmaPart(master.weight, master.first, own, master.copy)


class _ChunkWatch:
    """Hooks in one chunk of the model: in which order its modules run, and what its layers give."""

    def __init__(self, module: MegatronModule, number: int, groups: Groups, write: WriteState | None) -> None:
        """
        Args:
            module: the bare chunk.
            number: of the chunk in the order of the forward pass.
            groups: the run's process groups.
            write: takes hidden states; None: they are not wanted.
        """
        self._chunk, self._number, self._groups = module, number, groups
        self._samples: tuple[int, ...] | None = None
        """Positions of the micro-batch in the forward pass; None outside one, where layers are run again."""
        self._called: dict[nn.Module, int] = {}
        self._order_told = False
        self._handles: list[Any] = [
            part.register_forward_pre_hook(self._count)
            for part in module.modules()
            if next(part.parameters(recurse=False), None) is not None
        ]
        if write is not None and isinstance(module, TransformerChunk):
            self._watch_states(module, write)

    def end(self) -> None:
        """Take the hooks out."""
        for handle in self._handles:
            handle.remove()

    def tell_order(self, writer: Writer) -> None:
        """Write once which weights the forward pass came to in which order, and which modules have them."""
        if self._order_told:
            return
        self._order_told = True
        names = {id(named.parameter): named.name for named in global_names(self._chunk)}
        found: list[tuple[int, str]] = []
        modules: dict[str, str] = {OUTPUT: _class_of(self._chunk)}
        last = 0
        for part in self._chunk.modules():
            # What runs without being called, in a function of the module around it, comes where it stands.
            last = self._called.get(part, last)
            for parameter in part.parameters(recurse=False):
                found.append((last, names[id(parameter)]))
                modules[names[id(parameter)]] = _class_of(part)
        if isinstance(self._chunk, TransformerChunk):
            modules |= {_layer_key(layer): _class_of(layer) for layer in self._chunk.decoder.layers}
        order = [key for _, key in sorted(found, key=lambda one: one[0])]
        writer.note("chunk", {"number": self._number, "order": order, "modules": modules})

    def _count(self, module: nn.Module, arguments: Any) -> None:
        self._called.setdefault(module, len(self._called) + 1)

    def _watch_states(self, chunk: TransformerChunk, write: WriteState) -> None:
        """Hand over what enters the first layer, what leaves each, and what the network ends with."""

        def begin(module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
            self._samples = named["inputs"].positions

        def finish(module: nn.Module, arguments: Any, output: Tensor) -> None:
            copy = self._groups.tp.rank() + self._groups.cp.rank()
            for index, sample in enumerate(self._samples or ()):
                if chunk.post_process and copy == 0:
                    whole = output[index]
                    write(OUTPUT, sample, Box(whole, (0,) * whole.dim(), tuple(whole.shape)))
            self._samples = None

        def enter(layer: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
            tokens(EMBEDDED, arguments, named, arguments[0] if arguments else named["hidden_SBD"])

        def leave(layer: nn.Module, arguments: Any, named: dict[str, Any], output: Tensor) -> None:
            tokens(_layer_key(layer), arguments, named, output)

        def tokens(key: str, arguments: Any, named: dict[str, Any], hidden_SBD: Tensor) -> None:
            conditioning = next((a for a in (*arguments, *named.values()) if isinstance(a, Conditioning)), None)
            if self._samples is None or conditioning is None:
                return
            layout = chunk.token_layout(conditioning)
            if layout.sp_size == 1 and self._groups.tp.rank():
                return  # a copy
            for index, sample in enumerate(self._samples):
                write(key, sample, layout.box(hidden_SBD[:, index]))  # without padding, which depends on the layout

        self._handles += [
            chunk.register_forward_pre_hook(begin, with_kwargs=True),
            chunk.register_forward_hook(finish),
            *(layer.register_forward_hook(leave, with_kwargs=True) for layer in chunk.decoder.layers),
        ]
        if chunk.pre_process and len(chunk.decoder.layers):
            self._handles.append(chunk.decoder.layers[0].register_forward_pre_hook(enter, with_kwargs=True))


def _layer_key(layer: nn.Module) -> str:
    return f"decoder.layers.{layer.layer_number - 1}"  # type: ignore[operator]


def _class_of(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
