"""`python -m ray_jobs.train --recipe PATH --run URI`."""

from ray_jobs.entry import main
from ray_jobs.train.job import train

if __name__ == "__main__":
    main("train", train)
