"""Every performance claim, as a program: `python -m benchmarks.NAME`, or `make bench` for all of them."""
