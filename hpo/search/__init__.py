"""The Optuna side: what to try next, and what became of it. Never imports torch."""
