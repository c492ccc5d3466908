"""The rollout actor: its loop, the vLLM engine, preference pairing."""
