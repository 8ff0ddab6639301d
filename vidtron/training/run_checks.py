"""All errors of a run's configuration, from every room."""

from vidtron import data, encoders, parallel
from vidtron.config import check as config_check
from vidtron.config.errors import collect_errors
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models.registry import family_of
from vidtron.recipe.check import check as check_recipe
from vidtron.training.checks import check
from vidtron.training.clip_fit import clip_fit


def errors_of(config: RunConfig, world: World) -> list[str]:
    """Everything that every room finds wrong with a configuration, one message each."""
    family = family_of(config.model)

    def check_encoders(config: RunConfig, world: World) -> list[str]:
        return encoders.check(config, world, family.geometry(config), family.texts(config))

    def check_data(config: RunConfig, world: World) -> list[str]:
        return data.check(config, world, clip_fit(family, config))

    rooms = (config_check.check, check_recipe, parallel.check, family.check, check_encoders, check_data, check)
    return collect_errors(rooms, config, world)
