"""Numbers and names that the programs cannot use end them with status 2 and one message, never with a traceback."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
LONG, HUGE = "x" * 300, "1" + "0" * 20


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BUILD, CONVERT = "--input {tmp} --output {tmp}/out", "--load-format sat --save-format diffusers"
RUN = "--model cogvideox-tiny --data-path {shards}"
CASES = [
    ("build_shards", "--input \0 --output {tmp}/out"),
    ("build_shards", f"--input {LONG} --output {{tmp}}/out"),
    ("build_shards", f"--input {{tmp}} --output {{tmp}}/{LONG}"),
    ("build_shards", "--input {tmp} --output /proc/out"),
    ("build_shards", "--input {tmp} --output {tmp}/file/out"),
    *(("build_shards", f"{BUILD} {flag} {value}") for flag in ("--workers", "--height", "--samples-per-shard")
      for value in ("0", HUGE, "nan")),
    *(("build_shards", f"{BUILD} {flag} {value}") for flag in ("--start", "--max-seconds", "--cut-seconds", "--fps")
      for value in ("nan", "1e300", "-1")),
    ("build_shards", "--input pipe:cat\0 --output {tmp}/out"),
    ("build_shards", f"--input {{tmp}}/{{{{a,b}}}}{LONG}.tar --output {{tmp}}/out"),
    ("build_shards", f"{BUILD} --caption-key \udc80"),
    ("index_shards", f"{{tmp}}/{{{{a,b}}}}{LONG}.tar"),
    ("index_shards", "pipe:cat\0"),
    ("index_shards", LONG),
    ("index_shards", "\0"),
    ("index_shards", "{tmp} --workers 1000000"),
    ("index_shards", "/proc"),
    ("inspect_buckets", f"{RUN} --bucket-config {LONG}"),
    ("inspect_buckets", f"{RUN} --bucket-config {{tmp}}/bomb.yaml"),
    ("inspect_buckets", f"{RUN} --bucket-config {{tmp}}/buckets.yaml --epochs {HUGE}"),
    ("inspect_buckets", f"{RUN} --bucket-config {{tmp}}/buckets.yaml --plot /proc/x.svg"),
    ("inspect_buckets", f"{RUN} --bucket-config {{tmp}}/buckets.yaml --shuffle-window {HUGE}"),
    ("inspect_buckets", f"--model cogvideox-tiny --data-path {LONG} --bucket-config {{tmp}}/buckets.yaml"),
    ("report_dataset", "--data-path {shards} --output /proc/x.html"),
    ("report_dataset", f"--data-path {{shards}} --output {LONG}.html"),
    ("report_dataset", f"--data-path {{shards}} --output {{tmp}}/x.html --samples {HUGE}"),
    ("report_dataset", "--data-path {shards} --output {tmp}/x.html --workers 0"),
    ("report_dataset", "--data-path {shards} --output {tmp}/x.html --seed -1"),
    ("report_dataset", f"--data-path {LONG} --output {{tmp}}/x.html"),
    ("measure_latents", "--data-path {shards} --num-frames 0"),
    ("measure_latents", "--data-path {shards} --num-frames 16"),
    ("measure_latents", "--data-path {tmp}/none"),
    ("measure_latents", f"--data-path {{shards}} --vae-path {LONG}"),
    ("convert_checkpoint", f"{CONVERT} --load {LONG} --save {{tmp}}/out"),
    ("convert_checkpoint", f"{CONVERT} --load {{tmp}} --save {{tmp}}/{LONG}"),
    ("convert_checkpoint", f"{CONVERT} --load {{tmp}} --save /proc/out/x"),
    ("convert_checkpoint", f"{CONVERT} --load {{tmp}} --save {{tmp}}/out --sat-model-parallel-size 0"),
    ("convert_checkpoint", f"{CONVERT} --load {{tmp}} --save {{tmp}}/out --lora-alpha nan"),
    ("convert_lora", f"--load {LONG} --load-format sat --save {{tmp}}/out --save-format diffusers"),
    ("convert_lora", "--load {tmp} --load-format sat --save /proc/out/x --save-format diffusers"),
    ("convert_lora", "--load {tmp} --load-format sat --save {tmp}/out --save-format diffusers --lora-alpha nan"),
    ("sample_video", f"--load {LONG} --prompt a"),
    ("sample_video", "--load= --prompt a"),
    ("sample_video", f"--load {{tmp}} --prompt a --seed {HUGE}"),
    ("sample_video", "--load {tmp} --prompt a --guidance-scale nan"),
    ("sample_video", "--load {tmp} --prompt a --sampling-steps 1000000"),
    ("sample_video", "--load {tmp} --prompt a --first-number -1"),
    ("sample_video", "--load {tmp} --prompt a --output="),
    ("encode_latents", f"{RUN} --latent-cache {LONG}"),
    ("encode_latents", f"{RUN} --latent-cache /proc/x"),
    ("encode_latents", f"{RUN} --latent-cache {{tmp}}/c --num-workers {HUGE}"),
    ("encode_latents", f"{RUN} --latent-cache {{tmp}}/c --shuffle-slice 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words"), CASES, ids=lambda text: text.replace("\0", "0")[:60])
def test_refused(name, words, shards, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "buckets.yaml").write_text("32x48: {9: [1, 2]}\n")
    (tmp_path / "bomb.yaml").write_text("a: &a [x]\nb: *a\n")
    before = sorted(tmp_path.iterdir())
    argv = words.format(tmp=tmp_path, shards=shards).split(" ")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *argv])
    module = program(name)
    try:
        status = module.main(*([argv] if module.main.__code__.co_argcount else []))
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    error = capsys.readouterr().err
    assert ("accepted" in error or "invalid" in error) and "Traceback" not in error, error
    assert sorted(tmp_path.iterdir()) == before
