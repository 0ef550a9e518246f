"""The optional judge: a model that is neither teacher nor student says whose answer it prefers."""
