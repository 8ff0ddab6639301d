"""The mathematics: schedules, parameterizations, timestep densities, losses, samplers. Pure torch."""
