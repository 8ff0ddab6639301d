"""Names of averages of the weights (EMA) in a checkpoint: `ema.<average>.<weight>` beside `<weight>`."""

import re

_KEY = re.compile(r"ema\.((?:power_)?\d[\d.e-]*?)\.([A-Za-z_].*)")


def ema_key(average: str, weight: str) -> str:
    """Name of a tensor of an average: `ema.0.9999.decoder.layers.0.mlp.linear_fc1.weight`."""
    return f"ema.{average}.{weight}"


def ema_of_key(key: str) -> str | None:
    """Name of the average that a tensor belongs to, `0.9999` or `power_0.05`; None for all other tensors."""
    match = _KEY.fullmatch(key)
    return match and match[1]
