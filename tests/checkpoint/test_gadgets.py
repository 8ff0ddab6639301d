"""Nothing that a checkpoint's files name is run, wherever it stands and whoever reads it."""

import copyreg
import io
import pickle
import shutil
from pathlib import Path, PosixPath

import pytest
import torch

from tests.checkpoint import gadgets
from tests.checkpoint.checkpoints import PLAIN_STATE, copy_sat, rank_file
from tests.training.small import small_run
from vidtron import checkpoint, training
from vidtron.checkpoint import CheckpointError, ConversionError, lora_formats, manifest, open_weights
from vidtron.checkpoint.folders import MANIFEST_FILE
from vidtron.checkpoint.metadata_file import read_metadata
from vidtron.checkpoint.reading import load_part
from vidtron.checkpoint.torch_files import check_extra_state, load_torch_file
from vidtron.config.world import World

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
NAMES = list(gadgets.gadgets(Path("marker")))


@pytest.fixture(scope="module", autouse=True)
def _extension():
    """A registered number stands for os.system, as in a process that has registered one for itself."""
    copyreg.add_extension(*gadgets.EXTENSION)
    yield
    copyreg.remove_extension(*gadgets.EXTENSION)


@pytest.fixture
def marker(tmp_path):
    """A file that must not be there in the end."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    training.run(small_run(shards, save=folder, train_iters=2, lr=1e-2), WORLD)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy to damage: its checkpoint."""
    return checkpoint.latest(Path(shutil.copytree(trained, tmp_path / "run")))


@pytest.mark.parametrize("name", NAMES)
def test_gadgets_run_in_stock_unpicklers(name, tmp_path):
    if "torch's bytes" in name and torch.storage._load_from_bytes.__module__ != "torch.storage":
        pytest.skip("megatron-core has put a safe function in the place of torch's")
    assert gadgets.runs(gadgets.gadgets(tmp_path / "marker")[name], tmp_path / "marker")


@pytest.mark.parametrize("name", NAMES)
def test_metadata(name, run, marker):
    (run / ".metadata").write_bytes(gadgets.gadgets(marker)[name])
    for read in (checkpoint.ema_names_in, checkpoint.read_full_state, open_weights):
        with pytest.raises(ValueError, match=r"/\.metadata: "):
            read(run)
    with pytest.raises(ValueError, match=r"^\S+/\.metadata: [^\n]+$"):
        read_metadata(run)


@pytest.mark.parametrize("form", gadgets.FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_files_of_torch(name, form, run, marker, tmp_path):
    """The plain state, SAT's files, adapters, and what a conversion keeps beside."""
    content = gadgets.FORMS[form](gadgets.gadgets(marker)[name])
    (run / "common.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^\S+/common\.pt: [^\n]+$"):
        checkpoint.read_state(run)
    folder = copy_sat("2b", tmp_path / "sat")
    rank_file(folder).write_bytes(content)
    with pytest.raises(ConversionError, match=r"^\S+_model_states\.pt: [^\n]+$"):
        open_weights(folder)
    (tmp_path / "lora.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^\S+/lora\.pt: [^\n]+$"):
        lora_formats.read(tmp_path / "lora.pt", "sat")
    (run / "sat_extras.pt").write_bytes(content)
    with pytest.raises(ConversionError, match=r"^\S+/sat_extras\.pt: [^\n]+$"):
        open_weights(run)


def plant(folder: Path, content: bytes, *, objects: bool) -> None:
    """Put it in the place of all tensors, or of all objects, at the end of the data file, and tell `.metadata`."""
    file = folder / "__0_0.distcp"
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    chosen = [key for key in metadata.storage_data if (key.offset is None) == objects]
    with file.open("ab") as data:
        for key in chosen:
            place = metadata.storage_data[key]
            planted = gadgets.as_torch_file(content, place.length)
            place.offset, place.length = data.tell(), len(planted)
            data.write(planted)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    seal(folder)


def seal(folder: Path) -> None:
    """Checksums that fit, as whoever plants a gadget would write them."""
    if (folder / MANIFEST_FILE).is_file():
        manifest.write(folder, {}, finite=True)


@pytest.mark.parametrize("objects", [False, True], ids=["tensors", "objects"])
@pytest.mark.parametrize("name", NAMES)
def test_data_files(name, objects, run, marker):
    plant(run, gadgets.gadgets(marker)[name], objects=objects)
    metadata = read_metadata(run)
    index = next(key for key in metadata.storage_data if (key.offset is None) == objects)
    with pytest.raises(CheckpointError, match=r"^\S+/__0_0\.distcp: [^\n]+$"):
        load_part(run, index.fqn, metadata.storage_data[index])


@pytest.mark.parametrize("name", NAMES)
def test_state_that_a_module_would_unpickle(name, marker):
    """Transformer Engine's, a pickle in a tensor of bytes; and the bytes of torch in that pickle."""
    content = gadgets.gadgets(marker)[name]
    inner = b"\x80\x04" + gadgets.call(
        gadgets.named("torch.storage", "_load_from_bytes"), gadgets.blob(gadgets.as_torch_file(content))
    )
    for state in (content, inner + b"."):
        with pytest.raises(CheckpointError, match=r"^x\.distcp: [^\n]+$"):
            check_extra_state([torch.frombuffer(bytearray(state), dtype=torch.uint8)], Path("x.distcp"))


def test_state_of_transformer_engine(tmp_path):
    """Scaling factors, plain values and a recipe; its classes are not needed to look at it."""
    recipe = (
        gadgets.call(gadgets.named("transformer_engine.common.recipe", "DelayedScaling"))
        + b"}"
        + gadgets.text("margin")
        + b"K\x00sb"
    )
    state = pickle.dumps(
        {"scale_fwd": torch.ones(3), "extra_fp8_variables": {"steps": 3, "names": ("a",)}}, protocol=4
    )
    for content in (state, b"\x80\x04" + recipe + b"."):
        check_extra_state([torch.frombuffer(bytearray(content), dtype=torch.uint8)], tmp_path)
    check_extra_state([torch.empty(0, dtype=torch.uint8), None], tmp_path)


@pytest.mark.parametrize("objects", [False, True], ids=["tensors", "objects"])
def test_training_loads_nothing_of_it(objects, run, shards, marker, tmp_path):
    """Through megatron-core's and torch's own loaders, one gadget each; `finetune` reads a run's weights alone."""
    plant(run, gadgets.gadgets(marker)["os.system, text"], objects=objects)
    for flags in ({}, {"finetune": True}, {"load": run.parent, "save": run.parent}):
        config = small_run(shards, **{"load": run, "save": tmp_path / "out", "train_iters": 4, **flags})
        refused = training.check(config, WORLD)
        if objects and PLAIN_STATE is None:  # the plain state lies among the objects, and is read first
            assert len(refused) == 1 and "os.system" in refused[0]
            continue
        assert refused == []
        with pytest.raises(CheckpointError, match=r"^\S+/__0_0\.distcp: [^\n]*os\.system[^\n]*$"):
            training.run(config, WORLD)


@pytest.mark.skipif(PLAIN_STATE is None, reason="this megatron-core has the plain state there anyway")
def test_megatron_core_19s_plain_state(run):
    """It lies among the data files instead of in common.pt."""
    state = checkpoint.read_state(run)
    whole = io.BytesIO()
    torch.save([torch.load(run / "common.pt", weights_only=True)], whole)
    metadata = pickle.loads((run / ".metadata").read_bytes())
    index = next(key for key in metadata.storage_data if key.offset is None)
    key, place = "common_state/shard_0_1", metadata.storage_data.pop(index)
    metadata.state_dict_metadata[key] = metadata.state_dict_metadata.pop(index.fqn)
    place.offset, place.length = (run / "__0_0.distcp").stat().st_size, len(whole.getvalue())
    metadata.storage_data[type(index)(key)] = place
    (run / ".metadata").write_bytes(pickle.dumps(metadata))
    with (run / "__0_0.distcp").open("ab") as data:
        data.write(whole.getvalue())
    (run / "common.pt").unlink()
    assert checkpoint.read_state(run) == state


def test_what_other_packages_call_safe_is_not_made(tmp_path):
    """megatron-core adds classes to those that torch makes; they stay added for others."""
    added = set(torch.serialization.get_safe_globals())
    assert PosixPath in added
    torch.save({"place": tmp_path}, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="asks for pathlib"):
        load_torch_file(tmp_path / "file.pt")
    assert set(torch.serialization.get_safe_globals()) == added
