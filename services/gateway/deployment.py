"""The gateway as a Serve ingress.

It holds the handles of student and teacher, so that a request takes no second HTTP hop.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentHandle

from services.gateway.app import make_app
from services.gateway.cascade import Cascade
from services.gateway.engine import Engine, ServeEngine
from services.gateway.remote_engine import RemoteEngine
from services.gateway.responses import names
from stillhouse.endpoint.student import RemoteStudent, chat_model
from stillhouse.policy import Policy
from stillhouse.recipe import Recipe

CPUS = 1
"""Logical CPUs of one gateway replica."""

MAX_ONGOING_REQUESTS = 512
"""Requests that one replica holds at once; Serve's default of 5 would serialise what the engines can batch."""


class Gateway:
    """One replica of the endpoint."""

    def __init__(
        self,
        recipe: Recipe,
        policy: Policy,
        student: DeploymentHandle[Any] | RemoteStudent,
        teacher: DeploymentHandle[Any],
    ) -> None:
        # The gateway's log is Serve's: a file of this replica in Ray's session folder.
        log = logging.getLogger("services")
        log.handlers = logging.getLogger("ray.serve").handlers
        log.setLevel(logging.INFO)
        _, student_name, teacher_name = names(recipe.name)
        self._recipe = recipe
        self._decoding = policy.sampling
        self._cascade = Cascade(
            _student(student, student_name, recipe),
            ServeEngine(teacher, teacher_name),
            task=recipe.task,
            policy=policy,
            timeout_s=recipe.serving.teacher_timeout_s,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self._recipe.name, self._recipe.task, self._cascade, self._decoding)


def _student(found: DeploymentHandle[Any] | RemoteStudent, name: str, recipe: Recipe) -> Engine:
    # Its key is looked up here, on the node where it is used.
    if isinstance(found, RemoteStudent):
        return RemoteEngine(chat_model(found, recipe, live=True), recipe.task)
    return ServeEngine(found, name)


def deployment(
    recipe: Recipe, policy: Policy, *, student: Application | RemoteStudent, teacher: Application
) -> Application:
    """The gateway over the deployments of student and teacher; a student may lie at an endpoint instead."""
    made = serve.deployment(
        serve.ingress()(Gateway),
        name="gateway",
        num_replicas=1,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": CPUS},
    )
    return made.bind(recipe, policy, student, teacher)
