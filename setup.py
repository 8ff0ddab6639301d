"""Dependencies of vidtron. Exact pins for development and the quickstart are in requirements/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(r'__version__ = "(.+)"', Path(__file__).with_name("vidtron").joinpath("__init__.py").read_text())[
    1
]

setup(
    version=VERSION,
    packages=find_packages(include=["vidtron", "vidtron.*"]),
    package_data={
        "vidtron.data.planning": ["aspect_ratios.json"],
        "vidtron.data.report": ["body.html", "page.css", "page.js"],
    },
    python_requires=">=3.11,<3.13",
    install_requires=[
        "av>=14",
        "fsspec>=2024.2",
        "megatron-core>=0.16.1,<0.20",
        "numpy>=1.26",
        "pillow>=10",
        "psutil>=5.9",  # megatron-core's checkpoint writer imports it without asking for it
        "pyarrow>=15",
        "pyyaml>=6",
        "safetensors>=0.4.3",
        "torch",  # no pin: a cluster's own build stays
        "tqdm>=4.60",
        "tyro>=1.0",
        "xxhash>=3.2",
        "webdataset>=0.2.86",  # tars as its users name them
    ],
    extras_require={
        # Clips decoded by NVDEC, layers and FP8 by Transformer Engine.
        "gpu": ["nvidia-dali-cuda130>=2.1", "transformer-engine[pytorch]>=2.9"],
        # DALI also decodes VP9 and MJPEG on machines without a GPU.
        "dali": ["nvidia-dali-cuda130>=2.1"],
        # Pretrained autoencoders and text encoders.
        "encoders": ["diffusers>=0.35", "ftfy>=6.2", "sentencepiece>=0.2", "transformers>=4.50"],
        # Steps of tools/curate; those with networks also need "encoders", and RAFT torchvision.
        "curation": [
            "beautifulsoup4>=4.12",
            "ftfy>=6.2",
            "onnxruntime>=1.18",
            "opencv-python-headless>=4.9",
            "rapidocr>=3.4",
            "ray[data]>=2.40",
            "scenedetect-headless>=0.7",
        ],
        "logging": ["tensorboard>=2.16", "wandb>=0.19"],
        "dev": [
            "diffusers>=0.35",
            "ftfy>=6.2",
            "mypy>=1.13",
            "peft>=0.17",
            "pre-commit>=4",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "sentencepiece>=0.2",
            "tensorboard>=2.16",
            "transformers>=4.50",
            "wandb>=0.19",
        ],
    },
)
