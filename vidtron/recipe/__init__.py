"""What training and inference share: from a configuration to objective, densities, samplers and conditions.

`choices` has one table for each kind of thing that a flag names; the other modules build what was chosen.
"""
