"""Training: the student, distilled by Ray Train workers with DeepSpeed."""

from ray_jobs.train.job import train

__all__ = ["train"]
