"""Training loops: thin plugins that bring a store and the losses into them."""

from logitstore.training.hf_trainer import TrainerLabels, TrainerPlugin

__all__ = ["TrainerLabels", "TrainerPlugin"]
