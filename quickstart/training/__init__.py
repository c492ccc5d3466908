"""How the quickstart's tiny checkpoints are trained, from its own data alone."""
