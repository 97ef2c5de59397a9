"""Training loops, recipes and networks.

May import `reading` and the base modules; it does not depend on pruning.
"""

from sentei.training.distilling import Distillation
from sentei.training.finetune import FineTune
from sentei.training.models import (
    annealing_cnn,
    build,
    cnn,
    distinctiveness_cnn,
    initialise_,
    mlp,
    takes_flat,
)
from sentei.training.recipe import Recipe
from sentei.training.seeds import seeded
from sentei.training.train import Evaluation, History, evaluate, train

__all__ = [
    "Distillation",
    "Evaluation",
    "FineTune",
    "History",
    "Recipe",
    "annealing_cnn",
    "build",
    "cnn",
    "distinctiveness_cnn",
    "evaluate",
    "initialise_",
    "mlp",
    "seeded",
    "takes_flat",
    "train",
]
