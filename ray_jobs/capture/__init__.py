"""Capture: the teacher's completions and token distributions, in Parquet parts."""
