"""Recipes: YAML files, composed, overridden, and checked against dataclasses. Nothing here imports torch."""

from t2x_core.recipe.backbone_config import BackboneConfig
from t2x_core.recipe.cache_config import CacheConfig
from t2x_core.recipe.catalog import find_recipe, list_recipes
from t2x_core.recipe.check import build
from t2x_core.recipe.commented import commented
from t2x_core.recipe.components import (
    BLOCKS,
    CodecConfig,
    ComponentConfig,
    Kind,
    SourceConfig,
    SourcedTaskConfig,
    TaskConfig,
    TextEncoderConfig,
)
from t2x_core.recipe.compose import Composed, compose, composed_of
from t2x_core.recipe.constraints import FROM_CURRENT_FOLDER, Constraint, Range
from t2x_core.recipe.dump import dump_yaml, flat, portable, to_plain
from t2x_core.recipe.field_docs import field_docs
from t2x_core.recipe.load import SchemaOf, check_block, check_core, check_recipe
from t2x_core.recipe.lora_config import LoraConfig
from t2x_core.recipe.overrides import Written
from t2x_core.recipe.repa_config import RepaConfig
from t2x_core.recipe.schema import (
    DiffusionConfig,
    EMAConfig,
    GuardConfig,
    LoggingConfig,
    OptimizerConfig,
    Recipe,
    SamplerConfig,
    TimestepConfig,
)
from t2x_core.recipe.trainer_config import TrainerConfig

__all__ = [
    "BLOCKS",
    "FROM_CURRENT_FOLDER",
    "BackboneConfig",
    "CacheConfig",
    "CodecConfig",
    "ComponentConfig",
    "Composed",
    "Constraint",
    "DiffusionConfig",
    "EMAConfig",
    "GuardConfig",
    "Kind",
    "LoggingConfig",
    "LoraConfig",
    "OptimizerConfig",
    "Range",
    "Recipe",
    "RepaConfig",
    "SamplerConfig",
    "SchemaOf",
    "SourceConfig",
    "SourcedTaskConfig",
    "TaskConfig",
    "TextEncoderConfig",
    "TimestepConfig",
    "TrainerConfig",
    "Written",
    "build",
    "check_block",
    "check_core",
    "check_recipe",
    "commented",
    "compose",
    "composed_of",
    "dump_yaml",
    "field_docs",
    "find_recipe",
    "flat",
    "list_recipes",
    "portable",
    "to_plain",
]
