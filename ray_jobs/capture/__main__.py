"""`python -m ray_jobs.capture --recipe PATH --run URI`."""

from ray_jobs.capture.job import capture
from ray_jobs.entry import main

if __name__ == "__main__":
    main("capture", capture)
