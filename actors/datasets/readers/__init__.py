"""What is read: one file a format, each with `records(source, …)`."""
