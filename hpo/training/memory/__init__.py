"""Memory of a runner: what it has, what trials take, and which of them cannot fit."""
