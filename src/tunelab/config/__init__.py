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
from tunelab.config.harness import (
    HarnessConfig,
)
from tunelab.config.judge import (
    JudgeConfig,
)
from tunelab.config.model import (
    Attention,
    DType,
    ModelConfig,
    Quantization,
)
from tunelab.config.noise import (
    NoiseConfig,
)
from tunelab.config.report import (
    ReportConfig,
)
from tunelab.config.reproduce import (
    ReproduceConfig,
)
from tunelab.config.review import (
    PredictionsConfig,
    RatingsConfig,
    ReviewConfig,
)
from tunelab.config.roots import (
    OF_THE_SWEEP,
    AnySplit,
    ChatConfig,
    Combination,
    EvaluateConfig,
    ExportConfig,
    ExportKind,
    InspectConfig,
    PrepareConfig,
    RunConfig,
    Split,
    SubjectConfig,
)
from tunelab.config.search import (
    Pruner,
    Sampler,
    SearchConfig,
)
from tunelab.config.section import (
    MISSING,
    Section,
    all_reads,
    forget_reads,
    mark_read,
    mark_reads,
    read_entries,
    read_keys,
    require,
    to_plain,
)
from tunelab.config.sets import (
    SET_KEYS,
    EvaluationSetConfig,
    SetMeasures,
    in_keys_of_set,
)
from tunelab.config.sweep import (
    Design,
    Match,
    Rerun,
    SweepConfig,
)
from tunelab.config.training import (
    Accelerator,
    DecayShape,
    Objective,
    ObjectiveConfig,
    OptimConfig,
    Precision,
    Schedule,
    TrainerConfig,
)

__all__ = [
    "MISSING",
    "OF_THE_SWEEP",
    "SET_KEYS",
    "Accelerator",
    "Action",
    "AnySplit",
    "Attention",
    "BadRows",
    "ChatConfig",
    "ColumnsConfig",
    "Combination",
    "DType",
    "DataConfig",
    "DecayShape",
    "Design",
    "EvaluateConfig",
    "EvaluationConfig",
    "EvaluationSetConfig",
    "ExportConfig",
    "ExportKind",
    "HarnessConfig",
    "InspectConfig",
    "JudgeConfig",
    "Match",
    "MixedSourceConfig",
    "ModelConfig",
    "NoiseConfig",
    "Objective",
    "ObjectiveConfig",
    "OptimConfig",
    "OverLength",
    "Precision",
    "PredictionsConfig",
    "PrepareConfig",
    "Pruner",
    "QualityConfig",
    "Quantization",
    "RatingsConfig",
    "ReportConfig",
    "ReproduceConfig",
    "Rerun",
    "ReviewConfig",
    "RunConfig",
    "Sampler",
    "Schedule",
    "SearchConfig",
    "Section",
    "SetMeasures",
    "Split",
    "SubjectConfig",
    "SweepConfig",
    "TagsConfig",
    "TrainOn",
    "TrainerConfig",
    "all_reads",
    "forget_reads",
    "in_keys_of_set",
    "mark_read",
    "mark_reads",
    "read_entries",
    "read_keys",
    "require",
    "to_plain",
]
