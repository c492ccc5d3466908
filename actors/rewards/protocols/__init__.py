"""What reward servers speak, each protocol behind one interface."""
