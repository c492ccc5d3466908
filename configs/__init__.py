"""How a run is described: the schema, the loader and the recipes."""
