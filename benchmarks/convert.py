"""Memory and time of converting a 2B checkpoint in all directions, beside plain copying of the same bytes.

    python benchmarks/convert.py --folder SCRATCH [--verify]

SCRATCH needs 15 GB; what is put there is deleted at the end.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from common import describe_machine

from vidtron.checkpoint.formats import Content
from vidtron.checkpoint.formats.sat import SatTarget
from vidtron.checkpoint.tensor_files import TensorSpec
from vidtron.models.cogvideox.checkpoint_names import our_rows, sizes
from vidtron.models.cogvideox.config import PRESETS
from vidtron.models.cogvideox.sample_size import default_sample

ROOT = Path(__file__).parents[1]
FORMATS = ("sat", "diffusers", "megatron")


def write_random_checkpoint(folder: Path) -> int:
    """A SAT checkpoint of the 2B network with random bf16 weights; its bytes."""
    network = PRESETS["cogvideox-2b"].network
    letters = sizes(network)
    specs = {row.ours: TensorSpec(row.our_shape(letters), torch.bfloat16) for row in our_rows(network)}
    folder.mkdir(parents=True)
    target = SatTarget(folder, Content("cogvideox-2b", network, specs, default_sample(network)))
    generator = torch.Generator().manual_seed(0)
    for name, spec in specs.items():
        target.write(name, torch.randn(spec.shape, generator=generator).mul_(0.02).bfloat16())
    target.finish()
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def anonymous_memory(process: psutil.Process) -> int:
    """RssAnon of a process and its children, bytes."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            status = Path(f"/proc/{one.pid}/status").read_text()
        except FileNotFoundError:  # ended in between
            continue
        total += sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total


def convert(load_format: str, load: Path, save_format: str, save: Path, *more: str) -> tuple[float, int]:
    """Run the tool; seconds and the peak of its anonymous memory."""
    command = [sys.executable, "tools/convert_checkpoint.py", "--load-format", load_format, "--load", str(load)]
    command += ["--save-format", save_format, "--save", str(save), *more]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            peak = max(peak, anonymous_memory(process))
            time.sleep(0.02)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)}: status {running.returncode}")
    return time.perf_counter() - start, peak


def copy(source: Path, target: Path) -> float:
    """Seconds to copy a folder to disk."""
    start = time.perf_counter()
    shutil.copytree(source, target)
    for path in target.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    return time.perf_counter() - start


def row(what: str, seconds: float, copied: float, peak: int | None = None) -> list[str]:
    """A row of the table of results."""
    return [what, f"{seconds:.1f}", f"{seconds / copied:.1f}", "" if peak is None else f"{peak / 1e9:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="scratch space")
    parser.add_argument("--verify", action="store_true", help="also measure --verify, SAT to diffusers")
    arguments = parser.parse_args()
    scratch = arguments.folder / "convert-benchmark"
    try:
        size = write_random_checkpoint(scratch / "sat")
        copied = copy(scratch / "sat", scratch / "copy")
        shutil.rmtree(scratch / "copy")
        rows = [row("copying", copied, copied)]
        for load_format in FORMATS:
            for save_format in FORMATS:
                # What a conversion from SAT writes is what the other formats are read from.
                kept = load_format == "sat" and save_format != "sat"
                target = scratch / (save_format if kept else "out")
                seconds, peak = convert(load_format, scratch / load_format, save_format, target)
                rows.append(row(f"{load_format} -> {save_format}", seconds, copied, peak))
                print(rows[-1], file=sys.stderr, flush=True)
                if not kept:
                    shutil.rmtree(target)
        if arguments.verify:
            seconds, peak = convert("sat", scratch / "sat", "diffusers", scratch / "out", "--verify")
            rows.append(row("sat -> diffusers --verify", seconds, copied, peak))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print("# Converting a 2B checkpoint\n")
    print(describe_machine())
    print(f"{size / 1e9:.2f} GB; each conversion is a process of its own, its start included; warm cache\n")
    print("| | seconds | times copying | peak RssAnon, GB |\n| --- | --- | --- | --- |")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
