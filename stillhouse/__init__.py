"""Distil a large language model into a small student for one narrow task; serve it with a teacher to fall back on."""

__version__ = "0.1.0"
