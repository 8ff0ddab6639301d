"""The frame mask that each training sample draws."""

from collections.abc import Sequence
from typing import Self

import torch

from vidtron.diffusion.frame_masks import draw_frame_mask
from vidtron.parallel.randomness import sample_generator, sample_random
from vidtron.recipe.frame_mask_flag import parse_frame_masks


class FrameMaskDraws:
    """Draws masks keyed by (seed, position): the same under every layout and batch size."""

    def __init__(self, strategies: Sequence[tuple[str, float]], seed: int) -> None:
        """
        Args:
            strategies: names with probabilities that sum to 1; none: every frame of every sample is learned.
            seed: the run's `--seed`.
        """
        self.strategies, self.seed = list(strategies), seed

    @classmethod
    def from_config(cls, frame_masks: Sequence[str], seed: int) -> Self:
        """Masks drawn as `--frame-masks` says. Raises ValueError: names or probabilities that it does not accept."""
        return cls(parse_frame_masks(frame_masks), seed)

    @property
    def enabled(self) -> bool:
        """Whether any sample may be given frames."""
        return any(name != "identity" and probability > 0 for name, probability in self.strategies)

    def __call__(self, position: int, token_frames: int, patch_size_t: int) -> list[bool]:
        """One value for each latent frame, True where it is learned.

        Drawn for the frames of tokens, so that no token holds a frame that is given and one that is learned.

        Args:
            position: of the sample since step 0.
            token_frames: tokens along time.
            patch_size_t: latent frames of a token.
        """
        mask = draw_frame_mask(
            self.strategies,
            token_frames,
            sample_random(self.seed, position, "frame_mask"),
            lambda n: torch.rand(n, generator=sample_generator(self.seed, position, "frame_mask")).tolist(),
        )
        return [learned for learned in mask for _ in range(patch_size_t)]
