"""The delivery guarantees in one model: actors, link, learner, journal and checkpoints, without sockets, threads or a clock."""
