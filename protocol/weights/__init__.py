"""Policy versions on their way from the learner to the engines: files, the store, the node fetcher."""
