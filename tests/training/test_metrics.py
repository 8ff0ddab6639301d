import pytest

from vidtron.training.batches import Work
from vidtron.training.metrics import Costs, Peak, curves, data_work, line, model_tflops_per_device, peak, throughput


def test_model_tflops():
    # 3e12 FLOPs a sample, 8 samples in 2 s on 4 devices.
    assert model_tflops_per_device(3e12, 8, 2.0, 4) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
    ],
)
def test_known_peaks(name, tflops):
    found = peak(None, name)
    assert found is not None
    assert found.tflops == tflops
    assert "dense bf16" in found.name


@pytest.mark.parametrize("name", ["NVIDIA RTX A3000", "NVIDIA RTX A1000", "Some GPU", None])
def test_unknown_peaks(name):
    assert peak(None, name) is None


def test_given_peak_goes_first():
    assert peak(100.0, "NVIDIA H100 80GB HBM3") == Peak(100.0, "--peak-tflops")


def test_throughput():
    costs = Costs(flops_per_sample=3e12, tokens_per_sample=50, devices=4, peak=Peak(30.0, "x"))
    assert throughput(costs, samples=8, seconds=2.0) == {
        "samples_per_second": 4.0,
        "tokens_per_second": 200.0,
        "model_tflops_per_device": pytest.approx(3.0),
        "mfu": pytest.approx(0.1),
    }
    assert "mfu" not in throughput(Costs(1.0, 1, 1, None), 1, 1.0)


def test_lines():
    row = {
        "kind": "train", "iteration": 3, "loss": 0.5, "grad_norm": 1.0, "learning_rate": 1e-4, "memory_gib": 2.0,
        "bucket": "9x32x48", "bad_samples": 0,
        **data_work(Work(1.0, 0.5, 1.5, 0.5), stalled=0.02, step_seconds=2.0, workers=2),
        **throughput(Costs(3e12, 50, 4, Peak(30.0, "x")), 8, 2.0),
    }  # fmt: skip
    words = line(row, 10)
    parts = ["step 3/10", "loss 0.5000", "4 samples/s", "200 tokens/s", "MFU 10.0 %", "9x32x48"]
    for part in [*parts, "data 1 % decode 50 % encode 25 %"]:
        assert part in words
    assert "bad samples" not in words
    assert "3 bad samples" in line(row | {"bad_samples": 3}, 10)
    assert "evaluation after step 3 | loss 0.2500" in line(
        {"kind": "eval", "iteration": 3, "loss": 0.25, "seconds": 1.0}, 10
    )
    assert "evaluation of EMA 0.9 after step 3 | loss 0.2500" in line(
        {"kind": "eval", "iteration": 3, "weights": "0.9", "loss": 0.25, "seconds": 1.0}, 10
    )
    sample = {"kind": "sample", "iteration": 3, "weights": "0.9", "file": "samples/a.mp4", "prompt": "a cat"}
    assert line(sample, 10) == "sample of EMA 0.9 after step 3 | samples/a.mp4 | a cat"


def test_curves():
    row = {"kind": "eval", "iteration": 3, "weights": "model", "loss": 0.25, "seconds": 1.0}
    assert curves(row) == {"eval/loss": 0.25, "eval/seconds": 1.0}
    row |= {"weights": "power_0.1", "sigma_edges": [0.1, 0.25, 1.0], "sigma_losses": [0.75, 0.5]}
    assert curves(row) == {
        "eval_power_0.1/loss": 0.25,
        "eval_power_0.1/seconds": 1.0,
        "eval_power_0.1/loss_sigma_0.1_0.25": 0.75,
        "eval_power_0.1/loss_sigma_0.25_1": 0.5,
    }
