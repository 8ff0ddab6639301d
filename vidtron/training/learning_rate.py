"""The learning rate over the steps of a run."""

from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from vidtron.config.run import RunConfig


def make_scheduler(config: RunConfig, optimizer: MegatronOptimizer) -> OptimizerParamScheduler:
    """megatron-core's scheduler of learning rate and weight decay, which counts iterations."""
    flags = config.optimizer
    warmup = warmup_iterations(config)
    # A run may end within its warm-up; mcore asserts that the decay ends later.
    decay_steps = max(flags.lr_decay_iters or config.training.train_iters, warmup + 1)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=flags.lr,
        min_lr=flags.min_lr,
        lr_warmup_steps=warmup,
        lr_decay_steps=decay_steps,
        lr_decay_style=flags.lr_decay_style,
        start_wd=flags.weight_decay,
        end_wd=flags.weight_decay,
        wd_incr_steps=decay_steps,
        wd_incr_style="constant",
        # On resume the run continues at the checkpoint's iteration with the values of the command line.
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )


def warmup_iterations(config: RunConfig) -> int:
    """Iterations of linear warm-up."""
    flags = config.optimizer
    if flags.lr_warmup_fraction is None:
        return flags.lr_warmup_iters
    return int(flags.lr_warmup_fraction * (flags.lr_decay_iters or config.training.train_iters))
