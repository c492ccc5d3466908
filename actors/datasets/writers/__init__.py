"""What is written: one file a format, each with `write(examples, folder, …)`."""
