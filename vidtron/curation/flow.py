"""Step flow: how much moves in a clip.

Open-Sora 1.1's measure: frames 0, 10, 20 and 30 (beyond the end the last one) at 320 x 576, the mean over pixels and
the three pairs of the absolute flow in x and y. It used UniMatch; RAFT's and Farneback's numbers are not UniMatch's,
so thresholds have to be found anew.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from vidtron.curation.frames import frames_at
from vidtron.curation.motion import farneback, grey_picture
from vidtron.curation.step import Measure, ModelStep, load_state, missing_files

_FRAMES = (0, 10, 20, 30)
_HEIGHT, _WIDTH = 320, 576
PairFlow = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Flow(ModelStep):
    """amount of motion, by optical flow"""

    name: ClassVar[str] = "flow"
    adds: ClassVar[Mapping[str, pa.DataType]] = {"flow": pa.float64()}
    packages: ClassVar[Mapping[str, str]] = {"cv2": "opencv-python-headless"}

    method: Literal["raft", "farneback"] = "raft"
    """raft: the network of torchvision, with --weights; farneback: OpenCV's classical method, which needs none."""
    weights: Path | None = None
    """State dictionary (.pth or .safetensors) of torchvision's raft_large or raft_small."""
    raft: Literal["large", "small"] = "large"
    """Which of the two the weights are of."""

    def errors(self, resuming: bool) -> list[str]:
        """Errors of the step, absent weights among them; one message each."""
        if self.method == "farneback":
            return super().errors(resuming)
        found = super().errors(resuming)
        if importlib.util.find_spec("torchvision") is None:
            found.append(
                "flow --method raft: the package torchvision is not installed; accepted: one built for this machine's "
                "torch, or --method farneback"
            )
        model = f"the state dictionary of torchvision's raft_{self.raft}, or none with --method farneback"
        return found + missing_files("flow --weights", self.weights, model, {})

    def uses_gpu(self) -> bool:
        """Farneback's method runs on the CPU."""
        return self.method == "raft" and super().uses_gpu()

    def runs_network(self) -> bool:
        """Whether a network is run: RAFT is one, Farneback's method is none."""
        return self.method == "raft"

    def open(self, worker: int) -> Measure:
        """Load the network."""
        import cv2

        cv2.setNumThreads(1)
        flow_of = self._raft(worker) if self.method == "raft" else _farneback
        return lambda row: [{"flow": mean_flow(frames_at(Path(row["path"]), _FRAMES), flow_of)}]

    def _raft(self, worker: int) -> PairFlow:
        import torch
        from torchvision.models import optical_flow  # absent next to many builds of torch: only imported here

        assert self.weights is not None
        device = self.torch_device(worker)
        network = getattr(optical_flow, f"raft_{self.raft}")(weights=None, progress=False)
        network.load_state_dict(load_state(self.weights))
        network = network.to(device).eval()

        @torch.inference_mode()
        def flow_of(first_HWC: np.ndarray, second_HWC: np.ndarray) -> np.ndarray:
            pair = [
                torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
                for image in (first_HWC, second_HWC)
            ]
            return network(*pair)[-1][0].permute(1, 2, 0).float().cpu().numpy()

        return flow_of


def mean_flow(frames: list[np.ndarray], flow_of: PairFlow) -> float:
    """Mean absolute flow between successive RGB frames, in pixels of a picture of 320 x 576."""
    import cv2

    upright = [frame.transpose(1, 0, 2) if frame.shape[0] > frame.shape[1] else frame for frame in frames]
    resized = [
        cv2.resize(np.ascontiguousarray(frame), (_WIDTH, _HEIGHT), interpolation=cv2.INTER_LINEAR) for frame in upright
    ]
    return float(np.mean([np.abs(flow_of(a, b)).mean() for a, b in pairwise(resized)]))


def _farneback(first_HWC: np.ndarray, second_HWC: np.ndarray) -> np.ndarray:
    return farneback(grey_picture(first_HWC, None), grey_picture(second_HWC, None))
