"""Training: the student, distilled by Ray Train workers with DeepSpeed."""
