"""A study in the database: opened or resumed, with its space, sampler and budget."""
