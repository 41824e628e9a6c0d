"""Everything that is written to disk: whole files, checkpoints, metrics, TensorBoard's events, pictures and samples."""
