"""The application: the commands of `guided-jax`, the settings of an experiment, and run directories."""
