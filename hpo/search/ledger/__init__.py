"""What is written of trials: which may start, how each ended, and what is kept of it."""
