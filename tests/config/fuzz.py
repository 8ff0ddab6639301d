"""Random command lines and YAML files, drawn from the fields' own types and ranges, and from what people mistype."""

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from vidtron.config.flags import Flag, accepts_none, flags
from vidtron.config.ranges import Range, range_of
from vidtron.models.registry import preset, preset_names
from vidtron.recipe.choices import choices

NUMBERS = (
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e20",
    "1e300",
    "1e-300",
    "100000000000000000000",
    "1e400",
    "9" * 5000,
    "0x10",
)
WORDS = (
    "",
    " ",
    "x",
    "none",
    "x" * 300,
    "a/" * 3000,
    "\0",
    "\ud800",
    "\udcff",
    "~",
    "../..",
    "ü\u202e",
    "\n",
    "*",
    "[",
    "true",
)
FOLDERS = ("/proc/x", "/proc/self/mem/x", "/dev/null/x", "/sys/x", "/")
YAML_VALUES = (
    "2001-99-99", "!!int abc", "9" * 5000, "[" * 3000, "[" * 3000 + "]" * 3000, "&a [1]", "!!binary zzz", "!!set {a}",
    "!!python/object/apply:os.system [ls]", "{a: {b: c}}", "- 1", "'\\0'", '"\\0"', '"\\ud800"', "1:2:3",
    "0x" + "f" * 5000,
    "!!float x", "!!timestamp x", "? [1] : 2", "null", "yes", "|\n  a\n  b", "1_000", ".nan", "-.inf", "!<x> 1", "%",
    "&a [*a]", "0b2", "!!omap [1]", "!!merge x", "!!null x", "!!bool maybe", "\t1",
)  # fmt: skip
BOMB = "b0: &b0 [x]\n" + "".join(f"b{n}: &b{n} [{','.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 10)) + "lr: *b9\n"
YAML_FILES = (
    BOMB,
    "<<: {lr: 1}\n", "- 1\n", "lr: 1\nlr: 2\n", "", "\0", "\ufeff", "lr", "? {a: 1}\n: 2\n",
    "---\nlr: 1\n---\nlr: 2\n",
    "{" * 5000, "- " * 5000, "lr: 1\n" + "#" * 600_000, "1: 2\n", "yes: 1\n", "%YAML 9.9\n---\nlr: 1\n",
    "\x07", "lr: 1\r\rx",
)  # fmt: skip
SMALL: dict[str, tuple[str, ...]] = {
    "num_layers": ("1", "2"), "hidden_size": ("32", "64"), "num_attention_heads": ("1", "2"),
    "time_embed_dim": ("16", "33"),
    "text_length": ("1", "7"), "text_width": ("8", "32"), "num_frames": ("1", "5", "9"), "height": ("32", "48"),
    "width": ("32", "64"), "patch_size": ("1", "2"), "patch_size_t": ("1", "2"), "micro_batch_size": ("1", "2"),
    "global_batch_size": ("2", "4"), "num_workers": ("0", "1"), "prefetch_samples": ("0", "3"), "train_iters": ("2",),
    "encode_ahead": ("0", "1"), "shuffle_window": ("4",), "eval_iters": ("1",), "frame_interval": ("1", "2"),
    "fps": ("4", "8"), "lora_rank": ("1", "4"), "in_channels": ("16", "32"), "lr": ("0", "1e-4", "1e-3"),
    "learned_position_grid": ("none", "3 3 4", "1 2 2"), "ema_decay": ("0.9", "0.5 0.9"), "ema_power": ("0.1",),
    "freeze": ("*bias*",), "train_only": ("*linear*",), "frame_masks": ("image_head 0.5",),
    "out_channels": ("16", "32"),
    "rampup_batch_size": ("2 2 2",), "recompute_num_layers": ("1",), "lora_target_modules": ("to_q", "to_k ff.net.2"),
    "timestep_range": ("0 1", "0.2 0.7"), "wandb_exp_name": ("x",), "data_path": (), "valid_data_path": (),
    "lora_alpha": ("1", "8"), "min_lr": ("0",), "peak_tflops": ("1",), "global_batch_tokens": ("100",),
}  # fmt: skip
"""Values that keep a run of two steps short; the rest comes from the ranges, near the defaults."""
LEFT_OUT = {
    "data_path",
    "valid_data_path",
    "wandb_project",
    "wandb_mode",
    "distributed_timeout_minutes",
    "model",
    "config",
}
OFTEN = (
    "schedule",
    "parameterization",
    "predicted_variance",
    "loss_weighting",
    "timestep_density",
    "position",
    "lora_rank",
)


@dataclass(frozen=True)
class Draft:
    """One drawn configuration."""

    words: list[str]
    yaml: str | None = None
    """Content of the file for --config."""
    buckets: str | None = None
    """Content of the file for --bucket-config."""

    def argv(self, folder: Path) -> list[str]:
        """The command line, its files written into `folder`."""
        words = list(self.words)
        for flag, text in (("config", self.yaml), ("bucket-config", self.buckets)):
            if text is not None:
                (folder / f"{flag}.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
                words += [f"--{flag}", str(folder / f"{flag}.yaml")]
        return words

    def __str__(self) -> str:
        return json.dumps([[word[:80] for word in self.words], (self.yaml or "")[:300], (self.buckets or "")[:300]])


@dataclass
class Fuzz:
    """Drafts from a seed."""

    seed: int
    shards: Path
    draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.table = {
            name: flag
            for name, flag in flags(type(preset(preset_names()[0]).network), choices()).items()
            if name not in LEFT_OUT
        }

    def wild(self) -> Draft:
        """Anything: in the range, at its ends, outside, or no value at all."""
        draw = self.draw
        wildness = draw.choice((0.0, 0.0, 0.1, 0.3))
        chosen = draw.sample(sorted(self.table), draw.choice((1, 1, 2, 3, 6, 12)))
        model = draw.choice([*preset_names(), *["cogvideox-tiny"] * 20])
        words = ["--model", model] if draw.random() < 0.98 else []
        if draw.random() < 0.95:
            words += ["--data-path", *draw.choice([[str(self.shards)]] * 200 + [[w] for w in (*WORDS, *FOLDERS)])]
        yaml = buckets = None
        in_file = [name for name in chosen if draw.random() < 0.4] if draw.random() < 0.4 else []
        for name in chosen:
            if name not in in_file:
                words += self._flag(self.table[name], wild=draw.random() < wildness)
        if in_file:
            yaml = "".join(f"{name}: {self._yaml(self.table[name], wildness)}\n" for name in in_file)
        elif draw.random() < 0.05:
            yaml = draw.choice(YAML_FILES)
        if draw.random() < 0.04:
            buckets = self._buckets()
        return Draft(words, yaml, buckets)

    def small(self) -> Draft:
        """What is likely to be accepted, and is trained in a moment."""
        draw = self.draw
        words = ["--model", "cogvideox-tiny", "--data-path", str(self.shards)]
        words += "--num-layers 2 --num-frames 9 --height 32 --width 48 --decoder pyav --train-iters 2".split()
        words += "--num-workers 0 --global-batch-size 2 --no-tensorboard".split()
        names = set(draw.sample(sorted(self.table), draw.choice((2, 4, 6)))) | set(draw.sample(OFTEN, 2))
        for name in sorted(names):
            words += self._flag(self.table[name], wild=False, small=True)
        return Draft(words)

    def _flag(self, flag: Flag, *, wild: bool, small: bool = False) -> list[str]:
        if flag.annotation is bool:
            return [flag.option if self.draw.random() < 0.5 else f"--no-{flag.option[2:]}"]
        if small and flag.name in SMALL:
            values = SMALL[flag.name]
            return [flag.option, *self.draw.choice(values).split(" ")] if values else []
        words = self._words(flag.annotation, wild=wild, small=small)
        return [flag.option, *words] if words or not small else []

    def _words(self, annotation: Any, *, wild: bool, small: bool = False) -> list[str]:
        draw = self.draw
        if wild and draw.random() < 0.5:
            return [draw.choice((*NUMBERS, *WORDS, *FOLDERS)) for _ in range(draw.choice((1, 1, 1, 0, 2, 3)))]
        if accepts_none(annotation):
            if draw.random() < (0.1 if wild else 0.3):
                return ["none"]
            annotation = next(part for part in get_args(annotation) if part is not type(None))
        if get_origin(annotation) in (list, tuple):
            parts = [part for part in get_args(annotation) if part is not Ellipsis]
            count = len(parts) if get_origin(annotation) is tuple else draw.choice((1, 2))
            return [self._scalar(parts[0], wild, small) for _ in range(count)]
        if small and annotation in (Path, str):
            return []
        return [self._scalar(annotation, wild, small)]

    def _scalar(self, annotation: Any, wild: bool, small: bool) -> str:
        draw = self.draw
        accepted, plain = range_of(annotation), annotation
        if get_origin(annotation) is Annotated:
            plain = get_args(annotation)[0]
        if get_origin(plain) is Literal:
            return str(draw.choice(get_args(plain)))
        if accepted is not None:
            return number(draw, accepted, plain is int, wild)
        return draw.choice((*WORDS, *FOLDERS)) if not small else "x"

    def _yaml(self, flag: Flag, wildness: float) -> str:
        draw = self.draw
        if draw.random() < wildness:
            return draw.choice(YAML_VALUES)
        if flag.annotation is bool:
            return draw.choice(("true", "false", "1", "'on'"))
        words = self._words(flag.annotation, wild=draw.random() < wildness)
        told = [json.dumps(word) if draw.random() < 0.5 or not word.isalnum() else word for word in words]
        return told[0] if len(told) == 1 else f"[{', '.join(told)}]"

    def _buckets(self) -> str:
        draw = self.draw
        if draw.random() < 0.4:
            return draw.choice(YAML_FILES)
        keys = (
            "240x320",
            "144p",
            "32x48",
            "64000x64000",
            "0x0",
            "x",
            "9" * 5000 + "x1",
            "480p",
            "1x1",
            "0x" + "f" * 5000,
        )
        frames = ("1", "9", "17", "0", "-1", "100001", "9" * 5000, "x", "1.5", "0x" + "f" * 5000)
        entries = ("[1, 2]", "[0.5, 1]", "[[1, 0.5], 2]", "[nan, 1]", "[1, 1e20]", "[0, null]", "1", "[1, -1]", "x")
        entries = (*entries, "[1, " + "9" * 5000 + "]", "[1, 0x" + "f" * 5000 + "]", "[1, 2001-99-99]")
        return "".join(
            f"{draw.choice(keys)}: {{{draw.choice(frames)}: {draw.choice(entries)}}}\n"
            for _ in range(draw.choice((1, 2, 3)))
        )


def number(draw: random.Random, accepted: Range, whole: bool, wild: bool) -> str:
    """In the range, evenly in the logarithm, or at its ends, or beyond."""
    least, most = accepted.least, accepted.most
    if wild and draw.random() < 0.5:
        value = draw.choice((least, most, least - 1, most * 2 + 1, -most))
    elif least <= 0 or draw.random() < 0.1:
        value = draw.uniform(max(least, -5), min(most, 5))
    else:
        value = math.exp(draw.uniform(math.log(least), math.log(most if wild else min(most, 100 * least))))
    return str(round(value)) if whole else repr(float(value))
