"""The lease dialogue over ZeroMQ: a ROUTER at the learner, a DEALER at each rollout actor, one I/O thread each."""
