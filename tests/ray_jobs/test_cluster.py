"""The embedded Ray, with another one on the machine."""

from __future__ import annotations

import sys

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.state import get_actor
from ray.util.state.exception import RayStateApiException

from ray_jobs.cluster import connected


@ray.remote(num_cpus=0)
class Watcher:
    """Looks for itself, as Ray Train's watchers look for its controller."""

    def looks(self) -> str | None:
        try:
            found = get_actor(ray.get_runtime_context().get_actor_id(), timeout=30)
        except RayStateApiException:
            return "nobody answers"
        return found and found.state


@pytest.mark.slow
def test_another_cluster_is_never_asked_whether_a_trainings_controller_lives() -> None:
    # With its dashboard at the usual port, and the last one that was started: both are where Ray looks unless told.
    other = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        with connected():
            ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find the tests
            # Not None, which is what a cluster says that does not know it, and what Ray Train takes for its death.
            assert ray.get(Watcher.remote().looks.remote()) in ("nobody answers", "ALIVE")
    finally:
        other.shutdown()
