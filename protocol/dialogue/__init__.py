"""The lease dialogue as two pure state machines: events in, actions out; no sockets, no clock."""
