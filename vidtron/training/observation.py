"""What may look on while a run trains: measurements that need the model in the middle of a step."""

from vidtron.parallel import Groups
from vidtron.training.assembly import TrainedModel
from vidtron.training.step_report import StepReport


class Observer:
    """Called by the trainer on every rank, between the parts of a step; this one does nothing.

    A subclass may read the model and hang hooks into its modules. It must not change what is trained.
    """

    def before_training(self, model: TrainedModel, groups: Groups) -> None:
        """The weights are those that the run starts from."""

    def after_backward(self, model: TrainedModel) -> None:
        """The gradients of the global batch are reduced, and neither clipped nor used."""

    def after_update(self, model: TrainedModel, outcome: StepReport) -> str | None:
        """The weights are those after the step. Returns why the run is to end here, the same on all ranks, or None."""
        return None
