"""Weights in one safetensors file: a name table, and a network told by the header's metadata or by the tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidtron.checkpoint.formats.base import (
    Content,
    ConversionError,
    Preset,
    Reading,
    WeightSource,
    WeightTarget,
)
from vidtron.checkpoint.formats.safetensors_files import (
    CONFIG_FILE,
    SUFFIX,
    SafetensorsFiles,
    SafetensorsSource,
    SafetensorsTarget,
    told_by,
)
from vidtron.checkpoint.formats.weight_format import ForeignFormat, only
from vidtron.models import registry
from vidtron.models.foreign import SingleFile

FILE = f"model{SUFFIX}"
"""What a file is called in a folder that is written."""
_STEM = ".model"
"""Until it is complete."""


def file_at(path: Path) -> Path | None:
    """The safetensors file that a path leads to: itself, or the one of a folder without a configuration."""
    if path.is_file():
        return path if path.suffix == SUFFIX else None
    if (path / CONFIG_FILE).exists():
        return None
    found = sorted(path.glob(f"*{SUFFIX}"))
    visible = [file for file in found if not file.name.startswith(".")]
    return visible[0] if len(visible) == 1 else None


class SingleFileFormat(ForeignFormat):
    """A format whose checkpoints are one safetensors file."""

    kind = SingleFile

    def __init__(self, name: str):
        self.name = name

    def detects(self, path: Path) -> bool:
        file = file_at(path)
        if file is None:
            return False
        try:
            files = SafetensorsFiles([file])
        except ConversionError:  # of no format; whoever names one is told why
            return False
        return any(model.recognizes(files.metadata, files.shapes) for _, model in self.known())

    def open(self, path: Path, preset: Preset | None, reading: Reading) -> WeightSource:
        if reading.ema:
            raise ConversionError(f"--ema: a file of {self.name} holds one set of weights; accepted: without it")
        file = file_at(path)
        if file is None:
            raise ConversionError(
                f"--load {path}: no single {SUFFIX} file; accepted: one, or a folder with one and no {CONFIG_FILE}"
            )
        files = SafetensorsFiles([file])
        if preset is not None:
            chosen = registry.family_of(preset[0]), self.model_of(preset[0])
        else:
            known = self.known()
            found = [one for one in known if one[1].recognizes(files.metadata, files.shapes)]
            chosen = only(found, known, path)
        model = chosen[1]
        if preset is None or model.recognizes(files.metadata, files.shapes):
            told = told_by(model, files.metadata, files.shapes, file)
        else:
            told = preset[1], None
        return SafetensorsSource(self.name, path, file, files, chosen, told, preset)

    def file_for(self, save: Path) -> str | None:
        return FILE if save.suffix == SUFFIX else None

    def target(self, folder: Path, content: Content, options: Mapping[str, Any]) -> WeightTarget:
        return SingleFileTarget(folder, content, self.model_of(content.model))


class SingleFileTarget(SafetensorsTarget):
    """Writes one file into a folder."""

    def __init__(self, folder: Path, content: Content, model: SingleFile):
        """
        Args:
            folder: an empty one.
            content: what is to be written; of its extras nothing is kept.
            model: how its network stands in the format.
        """
        metadata = {key: str(value) for key, value in model.write_config(content.network, content.sample).items()}
        super().__init__(folder, content, model.rows(content.network), stem=_STEM, metadata=metadata)

    def finish(self) -> None:
        super().finish()
        (self.folder / f"{_STEM}{SUFFIX}").rename(self.folder / FILE)
