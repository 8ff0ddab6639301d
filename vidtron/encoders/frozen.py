"""A pretrained network that is only ever used: where its weights wait, and whether it is compiled."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

COMPILE_FLAG = "--compile-encoders"

Network = TypeVar("Network", bound=nn.Module)


class FrozenNetwork(Generic[Network]):
    """A network in evaluation mode without gradients.

    With `offload` its weights stay in the CPU's memory, pinned where there is a GPU, and are copied to the device for
    the time in which somebody uses it. They never change, so nothing is copied back.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device,
        *,
        offload: bool = False,
        compiled: Sequence[nn.Module] = (),
    ) -> None:
        """
        Args:
            network: with its weights, anywhere.
            device: where it works.
            offload: keep the weights off the device while nobody uses it; nothing to do where that is the CPU.
            compiled: the network or parts of it, to be compiled when they are first called.
        """
        self._network = network.eval().requires_grad_(False)
        self._device = device
        self._users = self._holders = 0
        self._is_here = False  # where there are offloaded weights: on the device
        self._lock = threading.Lock()
        self._offloaded: list[tuple[Tensor, Tensor]] = []  # each tensor of the network, and what it holds while unused
        if offload and device.type != "cpu":
            network.to("cpu")
            for tensor in (*network.parameters(), *network.buffers()):
                self._offloaded.append((tensor, tensor.data.pin_memory() if device.type == "cuda" else tensor.data))
            self._put_away()
        else:
            network.to(device)
        for part in compiled:
            part.compile()

    @contextmanager
    def in_use(self) -> Iterator[Network]:
        """The network with its weights on the device; may be nested, and entered by several threads.

        Raises:
            RuntimeError: torch.compile cannot compile it; the message names the flag.
        """
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        self._enter()
        try:
            yield self._network
        except (TorchDynamoException, InductorError) as error:
            first_line = next(iter(str(error).splitlines()), "")
            raise RuntimeError(
                f"{COMPILE_FLAG}: torch.compile cannot compile {type(self._network).__name__} on this machine "
                f"({type(error).__name__}: {first_line}); accepted: without {COMPILE_FLAG}"
            ) from error
        finally:
            self._leave()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While this is open, weights that a use has brought to the device stay there: one copy for many uses."""
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                self._put_away_if_idle()

    def _enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._offloaded and not self._is_here:
                for tensor, waiting in self._offloaded:
                    tensor.data = self._on_device(waiting)
                self._is_here = True
                self._settle()

    def _on_device(self, waiting: Tensor) -> Tensor:
        return waiting.to(self._device, non_blocking=True)

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._offloaded:
                self._settle()
                self._put_away_if_idle()

    def _settle(self) -> None:
        """Wait for this thread's stream: another thread, on another stream, may use the weights or let go of them."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _put_away_if_idle(self) -> None:
        if self._users == self._holders == 0 and self._is_here:
            self._put_away()

    def _put_away(self) -> None:
        for tensor, waiting in self._offloaded:
            tensor.data = waiting
        self._is_here = False
