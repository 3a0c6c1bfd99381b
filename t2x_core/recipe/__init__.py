"""Recipes: YAML files, composed, overridden, and checked against dataclasses. Nothing here imports torch."""

from t2x_core.recipe.catalog import find_recipe, list_recipes
from t2x_core.recipe.check import build
from t2x_core.recipe.compose import Composed, compose
from t2x_core.recipe.constraints import FROM_CURRENT_FOLDER, Constraint, Range
from t2x_core.recipe.dump import dump_yaml, to_plain
from t2x_core.recipe.field_docs import field_docs
from t2x_core.recipe.load import check_core, check_recipe, load_recipe
from t2x_core.recipe.schema import (
    BackboneConfig,
    ComponentConfig,
    DiffusionConfig,
    EMAConfig,
    OptimizerConfig,
    Recipe,
    SamplerConfig,
    TaskConfig,
    TimestepConfig,
    TrainerConfig,
    WatchConfig,
)

__all__ = [
    "FROM_CURRENT_FOLDER",
    "BackboneConfig",
    "ComponentConfig",
    "Composed",
    "Constraint",
    "DiffusionConfig",
    "EMAConfig",
    "OptimizerConfig",
    "Range",
    "Recipe",
    "SamplerConfig",
    "TaskConfig",
    "TimestepConfig",
    "TrainerConfig",
    "WatchConfig",
    "build",
    "check_core",
    "check_recipe",
    "compose",
    "dump_yaml",
    "field_docs",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "to_plain",
]
