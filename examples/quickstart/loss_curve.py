"""Print the loss of a run as a curve of text: python examples/quickstart/loss_curve.py RUN_FOLDER"""

import argparse
import json
from pathlib import Path
from statistics import fmean

ROWS = 20
COLUMNS = 60
WINDOW = 50
"""Steps whose mean is called the loss at the start and at the end."""


def training_losses(run_folder: Path) -> list[float]:
    """Loss of every training step, in order."""
    rows = map(json.loads, (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


def curve(losses: list[float]) -> str:
    """One line for each of up to ROWS equal parts of the run: last step, mean loss, bar."""
    size = max(1, -(-len(losses) // ROWS))
    parts = [losses[start : start + size] for start in range(0, len(losses), size)]
    means = [fmean(part) for part in parts]
    lines = []
    for number, mean in enumerate(means):
        last_step = min((number + 1) * size, len(losses))
        lines.append(f"{last_step:>6} {mean:8.4f} {'#' * round(COLUMNS * mean / max(means))}")
    return "\n".join(lines)


def summary(losses: list[float]) -> str:
    """How far the loss has fallen."""
    window = min(WINDOW, max(1, len(losses) // 4))
    steps = f"{window} steps" if window > 1 else "step"
    first, last = losses[0], fmean(losses[-window:])
    return f"loss at the first step {first:.4f}, mean of the last {steps} {last:.4f}: {100 * last / first:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_folder", type=Path)
    losses = training_losses(parser.parse_args().run_folder)
    if not losses:
        parser.exit(1, "no training steps in metrics.jsonl\n")
    print(curve(losses))
    print(summary(losses))


if __name__ == "__main__":
    main()
