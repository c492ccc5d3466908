"""What a SpeechLM is, for rollout actors and learner alike: one adapter a family."""
