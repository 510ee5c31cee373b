"""The ways of others to run the same trials: scripts that know nothing of hpo, only a job file."""
