from pathlib import Path

import pytest

from tests.encoders.tiny_folders import make_tiny_t5, make_tiny_vae


@pytest.fixture(scope="session")
def tiny_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    return make_tiny_vae(tmp_path_factory.mktemp("pipeline") / "vae")


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return make_tiny_t5(tmp_path_factory.mktemp("t5"))
