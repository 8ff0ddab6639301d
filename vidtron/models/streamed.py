"""Networks of any depth run with one layer in memory."""

from collections.abc import Callable
from typing import Any

from torch import nn


class Streamed(nn.Module):
    """A layer whose weights are put into the one layer in memory when it runs."""

    def __init__(self, layer: nn.Module, load: Callable[[], None]):
        super().__init__()
        self.layer, self.load = layer, load
        self.layer_number = 1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.load()
        return self.layer(*args, **kwargs)
