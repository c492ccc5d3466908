"""How instructions become speech: voices, back ends, what is said aloud, and checks of what was heard."""
