"""What keeps an instruction out of a data set: pure rules over its words, and duplicates."""
