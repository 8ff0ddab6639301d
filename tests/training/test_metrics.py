import pytest

from vidtron.training.metrics import Costs, Peak, model_tflops_per_device, peak, throughput


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
