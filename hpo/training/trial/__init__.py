"""One trial, from its order to its end: steps, evaluations, checkpoints, files."""
