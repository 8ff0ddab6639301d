"""Command line and YAML."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from vidtron.config import cli, flags
from vidtron.config.errors import ConfigurationError, collect_errors, refuse
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models import registry
from vidtron.models.lora_targets import chosen


@dataclass(frozen=True)
class Network:
    """Test network"""

    num_layers: int = 4
    """Layers."""
    patch: tuple[int, int, int] = (1, 2, 2)
    """Patch in time, height and width,
    over two lines."""


@dataclass(frozen=True)
class Preset:
    network: Network
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)


PRESETS = {
    "small": Preset(Network(), {"data": {"num_frames": 17}, "optimizer": {"lr": 1e-3}}),
    "large": Preset(Network(num_layers=42)),
}


def parse(*argv: str) -> RunConfig:
    return cli.parse(argv, PRESETS.__getitem__, list(PRESETS))


def refused(capsys: pytest.CaptureFixture, *argv: str) -> list[str]:
    """The errors printed when `argv` is refused with status 2."""
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert "--help" in lines[-1]
    return [line.removeprefix("error: ") for line in lines[:-1]]


def test_presets_set_network_and_other_sections():
    small, large = parse("--model", "small"), parse("--model=large")
    assert (small.network.num_layers, small.data.num_frames, small.optimizer.lr) == (4, 17, 1e-3)
    assert (large.network.num_layers, large.data.num_frames, large.optimizer.lr) == (42, 49, 1e-5)
    assert type(small.network) is Network


def test_flags_override_yaml_which_overrides_the_preset(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("model: small\nlr: 1e-4\nnum-frames: 9\ntrain_iters: 7\nnum_layers: 2\n")
    config = parse("--config", str(file), "--num-frames", "5", "--num_layers", "3")
    assert (config.optimizer.lr, config.data.num_frames, config.training.train_iters) == (1e-4, 5, 7)
    assert (config.model, config.network.num_layers, config.data.height) == ("small", 3, 480)
    assert parse("--config", str(file), "--model", "large").model == "large"
    assert PRESETS["small"].network.num_layers == 4


def test_a_parse_does_not_change_the_preset(tmp_path: Path):
    parse("--model", "small", "--num-layers", "9", "--num-frames", "1")
    assert (parse("--model", "small").network.num_layers, parse("--model", "small").data.num_frames) == (4, 17)


def test_switches_several_values_and_none():
    config = parse(
        *"--model small --bf16 --no-tensorboard --data-path 0.7 A 0.3 B --rampup-batch-size 8 8 64".split(),
        *"--save-interval none --fp8-format NONE --patch 2 2 2 --min-lr=0 --save runs/x".split(),
    )
    assert config.precision.bf16 and not config.logging.tensorboard
    assert config.data.data_path == ["0.7", "A", "0.3", "B"]
    assert config.training.rampup_batch_size == (8, 8, 64)
    assert config.checkpoint.save_interval is None and config.precision.fp8_format is None
    assert config.network.patch == (2, 2, 2) and config.checkpoint.save == Path("runs/x")


def test_every_mistake_of_flags_and_yaml_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture):
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: small\nfoo: 3\ntensor_model_parallel_sice: 2\nbf16: 'yes please'\ntrain-iters: 3.5\n"
        "cp_comm_type: p3p\nrampup_batch_size: [1, 2]\nsave_interval: none\n"
    )
    errors = refused(
        capsys,
        *("--config", str(file), "--lr", "abc", "--tensor-model-parallel", "2", "--no-bf16", "true"),
        *("--seed", "--fp8-format", "e5m2", "--width", "1", "2"),
    )
    expected = [
        ["unknown key foo"],
        ["unknown key tensor_model_parallel_sice", "did you mean tensor_model_parallel_size"],
        ["bf16", "yes please", "true or false"],
        ["train_iters", "3.5", "a whole number"],
        ["cp_comm_type", "p3p", "a2a, all_gather"],
        ["rampup_batch_size", "3 values, each a whole number, 1 to 1,000,000,000,000 or none"],
        ["--lr abc", "a number"],
        ["--tensor-model-parallel 2", "--tensor-model-parallel-size"],
        ["--no-bf16 true", "takes no value"],
        ["--seed", "a whole number"],
        ["--fp8-format e5m2", "e4m3, hybrid or none"],
        ["--width 1 2", "a whole number"],
    ]
    assert len(errors) == len(expected)
    for error, parts in zip(errors, expected, strict=True):
        for part in parts:
            assert part in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--model: missing; accepted: small, large"),
        (["--model", "smal"], "did you mean small?"),
        (["small"], "--model: missing"),
        (["small", "--model", "small"], "small: unexpected"),
        (["--model", "small", "--config"], "--config: wrong value"),
        (["--model", "small", "--config", "absent.yaml"], "absent.yaml: No such file"),
        (["--model", "small", "--no-lr", "1"], "--no-lr 1: unknown flag"),
    ],
)
def test_refusals(argv: list[str], message: str, capsys: pytest.CaptureFixture):
    (error,) = refused(capsys, *argv)
    assert message in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1\nlr: 2\n", "lr is given more than once"),
        ("train-iters: 1\ntrain_iters: 2\n", "train_iters is given more than once"),
        ("- lr\n", "a mapping"),
        ("lr: [1\n", "not YAML"),
        ("data:\n  lr: 1\n", "unknown key data"),
        ("lr: true\n", "lr: True"),
        ("network: 1\n", "unknown key network"),
    ],
)
def test_yaml_that_is_no_flat_mapping(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    (error,) = refused(capsys, "--model", "small", "--config", str(file))
    assert message in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train_iters: 1\nlr: 2001-99-99\n", "'2001-99-99' is no value (line 2)"),
        ("lr: !!int abc\n", "'abc' is no value (line 1)"),
        ("lr: " + "9" * 5000, "999' is no value (line 1)"),
        ("seed: 0x" + "f" * 5000, "seed: a number of thousands of digits; accepted: a whole number, 0 to"),
        ("lr: " + "[" * 3000, "nested too deep (line 1)"),
        ("lr: " + "[" * 3000 + "]" * 3000, "nested too deep (line 1)"),
        ("a: &a 1\nlr: *a\n", "anchors (&) and aliases (*) are not accepted; write the value out (line 1)"),
        ("<<: {lr: 1}\n", "accepted as a key: a plain word (line 1)"),
        ("? [1]\n: 2\n", "accepted as a key: a plain word (line 1)"),
        ("lr: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("lr: !!set {1}\n", "lr: {1}; accepted: a number"),
        ('lr: "\\0"\n', "lr: '\\x00'; accepted: a number"),
        ("#" * 600_000, "larger than 524,288 bytes"),
        ("\0", "not YAML"),
        ("a: 1\n---\na: 2\n", "not YAML"),
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
def test_hostile_yaml_is_one_error(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    (error,) = refused(capsys, "--model", "small", "--config", str(file))
    assert message in error and str(file) in error and len(error) < 600


def test_an_alias_bomb_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Written out, it would be 9^9 words."""
    file = tmp_path / "run.yaml"
    lines = [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 10)]
    file.write_text("b0: &b0 [x]\n" + "".join(lines) + "lr: *b9\n")
    (error,) = refused(capsys, "--model", "small", "--config", str(file))
    assert "aliases (*) are not accepted" in error


@pytest.mark.parametrize("name", ["", "x" * 300, "a\0b", "\ud800"])
def test_names_of_the_configuration_file(name: str, capsys: pytest.CaptureFixture):
    (error,) = refused(capsys, "--model", "small", f"--config={name}")
    assert error.startswith("--config ")


def test_an_empty_word_is_no_path(capsys: pytest.CaptureFixture, tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("load: ''\n")
    errors = refused(capsys, "--model", "small", "--save", "", "--config", str(file))
    assert errors == [
        f"{file}: load: ''; accepted: a path or none",
        "--save '': wrong value; accepted: a path or none",
    ]


def test_the_last_flag_of_a_name_counts():
    config = parse(*"--model small --lr 1 --bf16 --data-path a b --no-bf16 --lr 2 --data-path c".split())
    assert (config.optimizer.lr, config.precision.bf16, config.data.data_path) == (2.0, False, ["c"])


def test_only_rank_0_prints(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("vidtron.config.errors.HEAD_START_SECONDS", 0.0)
    with pytest.raises(SystemExit) as caught:
        parse("--model", "small", "--lr", "abc")
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "")


def test_help_is_grouped_and_fits(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "those of --model small" in text
    assert "(default: 17)" in text
    assert "(accepted: 1 to 65536)" in text
    assert "over two lines. (default: 1 2 2)" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    for group in ("Test network", "Parallel layout", "Optimizer", "Frozen encoders", "Logging"):
        assert group in text


def test_round_trip(tmp_path: Path):
    config = parse(
        *"--model small --lr 3e-7 --data-path 0.7 A 0.3 B --rampup-batch-size 8 8 64 --save runs/ü".split(),
        *"--wandb-exp-name 12 --num-layers 3".split(),
    )
    file = tmp_path / "config.yaml"
    file.write_text(cli.dump(config))
    assert cli.load(file, PRESETS.__getitem__, list(PRESETS)) == config
    assert parse("--config", str(file)) == config
    flat = yaml.safe_load(file.read_text())
    assert set(flat) == {"model", *flags.flags(Network)}


def test_load_reports_instead_of_leaving(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text("model: small\nfoo: 1\nbar: 2\n")
    with pytest.raises(ConfigurationError) as caught:
        cli.load(file, PRESETS.__getitem__, list(PRESETS))
    assert len(caught.value.errors) == 2


def test_two_sections_with_one_name_are_refused():
    @dataclass
    class Clashing:
        lr: float = 1.0

    with pytest.raises(TypeError, match="two flags are named lr"):
        flags.flags(Clashing)


@pytest.mark.parametrize("name", registry.preset_names())
def test_presets_of_the_registry(name: str, tmp_path: Path):
    config = cli.parse(["--model", name], registry.preset, registry.preset_names())
    assert config.network == registry.preset(name).network
    undocumented = [flag.option for flag in flags.flags(type(config.network)).values() if not flag.help]
    assert not undocumented
    file = tmp_path / "config.yaml"
    file.write_text(cli.dump(config))
    assert cli.load(file, registry.preset, registry.preset_names()) == config


def test_the_configuration_of_an_earlier_version_is_the_same_run():
    """`earlier_run.yaml` was written before `--lora-target-modules` could be unset and `--posterior` be chosen."""
    earlier = cli.load(Path(__file__).with_name("earlier_run.yaml"), registry.preset, registry.preset_names())
    flags_of_it = (
        "--model cogvideox-tiny --data-path SHARDS --save RUN --latent-cache CACHE --train-iters 4 "
        "--global-batch-size 4 --tensor-model-parallel-size 2 --sequence-parallel --lora-rank 4 --lora-dropout 0.1 "
        "--ema-decay 0.9 --frame-masks identity 0.5 image_head 0.5 --loss-weighting min-snr "
        "--predicted-variance learned"
    )
    now = cli.parse(flags_of_it.split(), registry.preset, registry.preset_names())
    targets = registry.family_of(now.model).lora_targets
    assert chosen(targets, earlier.adaptation.lora_target_modules) == chosen(targets, None)
    earlier.adaptation.lora_target_modules = now.adaptation.lora_target_modules
    assert earlier == now


def test_sections_are_documented_and_typed():
    for section in flags.sections(Network).values():
        assert section.__doc__ and "\n" not in section.__doc__.strip()
        for hint in (f.type for f in dataclasses.fields(section)):
            flags.describe(hint)


def test_parsing_imports_no_torch():
    modules = "vidtron.config.cli, vidtron.config.check, vidtron.models.registry, vidtron.recipe.choices"
    code = f"import sys, {modules}; vidtron.recipe.choices.choices(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_errors_are_collected_and_printed_by_rank_0(capsys: pytest.CaptureFixture):
    config = parse("--model", "small")
    world = World(size=1, rank=0, local_rank=0, has_cuda=False)
    checks = [lambda c, w: ["--a 0; accepted: 1"], lambda c, w: 1 // 0, lambda c, w: ["--b"], lambda c, w: ["--b"]]
    errors = collect_errors(checks, config, world)
    assert errors == ["--a 0; accepted: 1", "--b"]
    refuse([], world)
    with pytest.raises(SystemExit) as caught:
        refuse(errors, world)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: --a 0; accepted: 1\nerror: --b\n"
    with pytest.raises(ZeroDivisionError):
        collect_errors([lambda c, w: 1 // 0], config, world)
