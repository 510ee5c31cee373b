"""The frozen base: adapters on it, one forward pass for several, outputs computed once."""
