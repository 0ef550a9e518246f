"""Ray jobs: what is submitted to a cluster, one module a step."""

import os

# Before anything imports Ray, whose core reads it then: Ray Data's own actors make the core log an error at
# every start (ray-project/ray#53727).
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
