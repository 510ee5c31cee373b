"""Mutated inputs: what people's files may turn into, by seed, run through the command in bulk."""
