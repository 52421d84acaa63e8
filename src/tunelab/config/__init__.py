"""The typed run tree: its dataclasses own every default, unit, range and cross-field rule."""

from tunelab.config.data import (
    Action,
    BadRows,
    ColumnsConfig,
    DataConfig,
    MixedSourceConfig,
    OverLength,
    QualityConfig,
    TagsConfig,
    TrainOn,
)
from tunelab.config.evaluation import (
    EvaluationConfig,
)
from tunelab.config.model import (
    Attention,
    DType,
    ModelConfig,
    Quantization,
)
from tunelab.config.roots import (
    AnySplit,
    EvaluateConfig,
    InspectConfig,
    PrepareConfig,
    RunConfig,
    Split,
)
from tunelab.config.section import (
    MISSING,
    Section,
    all_reads,
    forget_reads,
    mark_read,
    mark_reads,
    read_keys,
    require,
    to_plain,
)
from tunelab.config.training import (
    Accelerator,
    Objective,
    ObjectiveConfig,
    OptimConfig,
    Precision,
    Schedule,
    TrainerConfig,
)

__all__ = [
    "MISSING",
    "Accelerator",
    "Action",
    "AnySplit",
    "Attention",
    "BadRows",
    "ColumnsConfig",
    "DType",
    "DataConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "InspectConfig",
    "MixedSourceConfig",
    "ModelConfig",
    "Objective",
    "ObjectiveConfig",
    "OptimConfig",
    "OverLength",
    "Precision",
    "PrepareConfig",
    "QualityConfig",
    "Quantization",
    "RunConfig",
    "Schedule",
    "Section",
    "Split",
    "TagsConfig",
    "TrainOn",
    "TrainerConfig",
    "all_reads",
    "forget_reads",
    "mark_read",
    "mark_reads",
    "read_keys",
    "require",
    "to_plain",
]
