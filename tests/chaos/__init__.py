"""Several drivers on one study, a seeded plan of faults, and an audit of what is left."""
