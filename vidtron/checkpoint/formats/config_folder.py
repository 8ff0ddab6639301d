"""Folders of config.json and safetensors, alone or as `transformer/` of a pipeline: diffusers', and others alike."""

import json
from collections.abc import Mapping
from dataclasses import replace
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
    SafetensorsFiles,
    SafetensorsSource,
    SafetensorsTarget,
    read_json,
    told_by,
    weight_files,
)
from vidtron.checkpoint.formats.weight_format import ForeignFormat, only, possessive
from vidtron.models import registry
from vidtron.models.family import Family
from vidtron.models.foreign import ConfigFolder

PART = "transformer"
"""Folder of the network in a pipeline's."""
SHARD_BYTES = 10 * 10**9

Known = list[tuple[Family, ConfigFolder]]


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    return read_json(file) if file.is_file() else {}


def _find(path: Path, known: Known) -> tuple[Path, Known] | None:
    """The folder of the network, `path` itself or the pipeline's part, and the families whose it is."""
    for folder in (path, path / PART):
        config = _read_config(folder)
        if found := [one for one in known if one[1].recognizes(config, {})]:
            return folder, found
    return None


class ConfigFolderFormat(ForeignFormat):
    """A format whose checkpoints are folders with a config.json and safetensors."""

    kind = ConfigFolder

    def __init__(self, name: str):
        self.name = name

    def detects(self, path: Path) -> bool:
        return path.is_dir() and _find(path, self.known()) is not None

    def open(self, path: Path, preset: Preset | None, reading: Reading) -> WeightSource:
        if reading.ema:
            raise ConversionError(f"--ema: a {self.name} folder holds one set of weights; accepted: without it")
        known: Known = self.known() if preset is None else [(registry.family_of(preset[0]), self.model_of(preset[0]))]
        place = _find(path, known)
        if place is None:
            names = " or ".join(dict.fromkeys(model.class_name or self.name for _, model in known))
            raise ConversionError(
                f"--load {path}: no {CONFIG_FILE} of a {names}; accepted: its folder, or a pipeline's folder with "
                f"{PART}/"
            )
        folder, found = place
        family, model = only(found, known, path)
        config = _read_config(folder)
        told = told_by(model, config, {}, folder / CONFIG_FILE)
        untold = ", ".join(model.untold(config))
        remarks = [f"{CONFIG_FILE} does not say {untold}: {possessive(self.name)} defaults hold"] if untold else []
        files = SafetensorsFiles(weight_files(folder, model.stem))
        return SafetensorsSource(self.name, path, folder, files, (family, model), told, preset, remarks)

    def target(self, folder: Path, content: Content, options: Mapping[str, Any]) -> WeightTarget:
        return ConfigFolderTarget(folder, content, self.model_of(content.model))


class ConfigFolderTarget(SafetensorsTarget):
    """Writes a folder for the `from_pretrained` of the format's own class."""

    def __init__(self, folder: Path, content: Content, model: ConfigFolder, *, shard_bytes: int = SHARD_BYTES):
        """
        Args:
            folder: an empty one.
            content: what is to be written; its extras are kept in a file that the format's own code does not look at.
            model: how its network stands in the format.
            shard_bytes: weights beyond this go into several files.
        """
        super().__init__(folder, content, model.rows(content.network), stem=model.stem, file_bytes=shard_bytes)
        config = model.write_config(content.network, content.sample)
        self._config = json.dumps(config, indent=2, sort_keys=True) + "\n"
        replace(content.extras, sample=None).save(folder)  # config.json has the sample's size

    def finish(self) -> None:
        super().finish()
        (self.folder / CONFIG_FILE).write_text(self._config, encoding="utf-8")
