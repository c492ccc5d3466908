"""Everything that produces data: rollouts, rewards, synthesis, evaluation."""
