"""The configuration of one run."""

from dataclasses import dataclass, field

from vidtron.config.checkpoint import CheckpointConfig
from vidtron.config.data import DataConfig, EncoderConfig
from vidtron.config.ema import EmaConfig
from vidtron.config.logging import LoggingConfig
from vidtron.config.lora import AdaptationConfig
from vidtron.config.network import NetworkConfig
from vidtron.config.objective import ObjectiveConfig
from vidtron.config.optimizer import OptimizerConfig
from vidtron.config.parallel import ParallelConfig
from vidtron.config.precision import PrecisionConfig
from vidtron.config.training import TrainingConfig
from vidtron.config.validation import ValidationConfig


@dataclass
class RunConfig:
    """Everything a run is a function of. `network` is the model's own dataclass, added by the entry point."""

    model: str
    network: NetworkConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    encoders: EncoderConfig = field(default_factory=EncoderConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
