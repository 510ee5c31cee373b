"""Hyperparameter search for LoRA fine-tuning: Optuna on one side, torch on the other."""

__version__ = "0.1.0"
