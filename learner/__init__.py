"""Everything that changes weights: intake, losses, the DeepSpeed engine, publishing, checkpoints."""
