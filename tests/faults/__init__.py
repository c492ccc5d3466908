"""The faults that a run has to survive, one drill each: real processes and real sockets, judged by one checker of their histories."""
