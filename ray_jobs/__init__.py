"""Ray jobs: what is submitted to a cluster, one module a step."""
