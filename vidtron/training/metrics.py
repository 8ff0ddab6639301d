"""Measuring a step: throughput, model FLOP/s, utilization, memory, where the data's time went."""

import re
from dataclasses import dataclass
from typing import Any

import torch

from vidtron.parallel import memory_statistics
from vidtron.training.batches import Work

PEAK_BF16_TFLOPS = {
    "GB300": 2500.0,
    "GB200": 2500.0,
    "B300": 2250.0,
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "H20": 148.0,
    "GH200": 989.4,
    "A100": 312.0,
    "A800": 312.0,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.2,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
}
"""Dense peak of one GPU with 16-bit inputs and fp32 accumulation, in TFLOP/s (vendor data sheets), by words of the
name that `torch.cuda.get_device_name` gives. Of several that fit, the longest counts. V100: fp16."""


@dataclass(frozen=True)
class Peak:
    """What MFU is measured against."""

    tflops: float
    name: str


def peak(peak_tflops: float | None, device_name: str | None) -> Peak | None:
    """The peak of one device.

    Args:
        peak_tflops: `--peak-tflops`, which goes first.
        device_name: of the GPU; None on a CPU.
    """
    if peak_tflops is not None:
        return Peak(peak_tflops, "--peak-tflops")
    fitting = [name for name in PEAK_BF16_TFLOPS if re.search(rf"\b{name}\b", device_name or "")]
    if not fitting:
        return None
    name = max(fitting, key=len)
    return Peak(PEAK_BF16_TFLOPS[name], f"{name} dense bf16")


def device_name(device: torch.device) -> str | None:
    """Name of a GPU; None for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def model_tflops_per_device(flops_per_sample: float, samples: int, seconds: float, devices: int) -> float:
    """Model TFLOP/s of one device.

    Args:
        flops_per_sample: forward and backward pass of one sample, without what is recomputed
            (`Family.flops_per_sample`).
        samples: of the step, over all replicas.
        seconds: the step took, data wait included.
        devices: of the run.
    """
    return flops_per_sample * samples / seconds / devices / 1e12


@dataclass(frozen=True)
class Costs:
    """What one sample costs under the run's configuration."""

    flops_per_sample: float
    tokens_per_sample: int
    devices: int
    peak: Peak | None


def throughput(costs: Costs, samples: int, seconds: float) -> dict[str, Any]:
    """Fields of a `TrainRow`: rates of a step of `samples` that took `seconds`; `mfu` only where a peak is known."""
    tflops = model_tflops_per_device(costs.flops_per_sample, samples, seconds, costs.devices)
    rates = {
        "samples_per_second": samples / seconds,
        "tokens_per_second": samples * costs.tokens_per_sample / seconds,
        "model_tflops_per_device": tflops,
    }
    if costs.peak is not None:
        rates["mfu"] = tflops / costs.peak.tflops
    return rates


def data_work(work: Work, stalled: float, step_seconds: float, workers: int) -> dict[str, Any]:
    """Fields of a `TrainRow`: where the data's time went.

    Args:
        work: of the step's batch on this rank, part of which was done during earlier steps.
        stalled: seconds that the training stood still for it.
        step_seconds: the step took.
        workers: decoding processes; 0: the training process decodes.
    """
    return {
        "stall_seconds": stalled,
        "data_wait_seconds": work.wait,
        "encode_seconds": work.encode,
        "decode_seconds": work.decode,
        "read_seconds": work.read,
        "data_percent": 100 * stalled / step_seconds,
        "decode_percent": 100 * (work.decode + work.read) / (max(workers, 1) * step_seconds),
        "encode_percent": 100 * work.encode / step_seconds,
    }


def memory_gib(device: torch.device) -> float:
    """Most memory the device (on a CPU: the process) has held since the start, GiB."""
    statistics = memory_statistics(device)
    return max(statistics.get("max_allocated", 0), statistics.get("max_resident", 0)) / 2**30
