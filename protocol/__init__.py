"""What crosses a process boundary: messages, dialogue, links, weights, data sets, metrics."""
