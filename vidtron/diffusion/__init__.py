"""The mathematics: schedules, parameterizations, timestep densities, losses, samplers. Pure torch.

A module is imported when it is first asked for (`diffusion.schedule.FlowSchedule`), so that what there is can be named
without torch.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidtron.diffusion import continuous as continuous
    from vidtron.diffusion import density as density
    from vidtron.diffusion import parameterization as parameterization
    from vidtron.diffusion import samplers as samplers
    from vidtron.diffusion import schedule as schedule
    from vidtron.diffusion import weighting as weighting


def __getattr__(name: str) -> ModuleType:
    module = f"{__name__}.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module {__name__} has no attribute {name}") from error
