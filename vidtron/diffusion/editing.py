"""Frames that are given and kept, wholly or in part, while a sampler makes the others (Open-Sora).

Each frame has a share in [0, 1] of the way it is denoised: 1 is made from noise, 0 is kept. Shape letters: B samples,
T latent frames; shares and masks are shaped to broadcast against the latents, [B, T, 1, 1, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vidtron.diffusion.continuous import TIMESTEPS
from vidtron.diffusion.levels import Level

Draw = Callable[[int], Tensor]
"""Number of the step -> standard normal noise, shaped like the latents."""


class FrameEdit:
    """Base of the rules by which samplers change some frames of given latents."""

    def __init__(self, share: Tensor, draw: Draw):
        """
        Args:
            share: of each frame.
            draw: noise for frames that begin to be denoised; called in every step.
        """
        self.share, self.draw = share, draw

    def enter(self, x: Tensor, step: int, steps: int, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Before a step: (latents to denoise, frame mask for the network, which frames take the step's result)."""
        raise NotImplementedError

    def _noised(self, x: Tensor, step: int, level: Level) -> Tensor:
        return level.alpha * x + level.sigma * self.draw(step)


class AncestralEdit(FrameEdit):
    """Open-Sora 1.1's rule. A frame of share r enters at step n - 1 - int(r n) from the end.

    In that step it is noised and denoised but still shown to the network as kept; so a frame of share 0 is changed in
    the last step, a little where that is the schedule's first level.
    """

    def __init__(self, share: Tensor, draw: Draw, *, hold: bool = False):
        """
        Args:
            share: of each frame.
            draw: noise for frames that begin to be denoised; called in every step.
            hold: leave frames of share 0 as they are, the last step included.
        """
        super().__init__(share, draw)
        self.hold = hold

    def enter(self, x: Tensor, step: int, steps: int, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Prepare a step, as `FrameEdit.enter` says."""
        index, first = steps - 1 - step, (self.share * steps).int()
        if self.hold:
            first = first.where(self.share > 0, -1)
        noisy = torch.where(first == index, self._noised(x, step, level), x)
        return noisy, first > index, first >= index


class FlowEdit(FrameEdit):
    """Open-Sora 1.2's rule: a frame of share r is denoised at timesteps up to 1000 r, from noise of its own."""

    def __init__(self, share: Tensor, draw: Draw):
        super().__init__(share, draw)
        self._inside = share == 1

    def enter(self, x: Tensor, step: int, steps: int, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Prepare a step, as `FrameEdit.enter` says; steps must be walked in order, from the first."""
        inside = self.share * TIMESTEPS >= level.timestep
        noisy = torch.where(inside & ~self._inside, self._noised(x, step, level), x)
        self._inside = inside
        return noisy, inside, inside
