"""The dataset for other trainers: one file a format, each from an example to a line of JSON."""
