"""Operators that release models: deploy, shift traffic, roll back, test, delete.

A change is recorded first; then the task waits, deferred when asked to, until the gateway itself serves it. A task that
is killed while it waits changes nothing: the service goes on towards what was recorded, and a retry waits for it again.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow.sdk import Context, conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from pydantic import JsonValue

from airflow_provider_timl.entities import Service, TestAnswer
from airflow_provider_timl.exceptions import InvalidInputError, NotFoundError
from airflow_provider_timl.links.timl import ServiceLink
from airflow_provider_timl.operators.task import TimlOperator, build_lineage, fail_for_good, push_service_link
from airflow_provider_timl.triggers.services import ServiceInSyncTrigger

_REL_TOL = 1e-9


class _ServiceOperator(TimlOperator):
    """:param service_name: the service. (templated)"""

    template_fields: tuple[str, ...] = (*TimlOperator.template_fields, "service_name")
    operator_extra_links = (ServiceLink(),)

    def __init__(self, *, service_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.service_name = service_name


class _ChangeServiceOperator(_ServiceOperator):
    """Changes a service and waits until the gateway serves the change.

    :param wait: fail unless the gateway serves it within ``timeout_seconds``.
    :param deferrable: wait in the triggerer instead of a worker slot.
    """

    def __init__(
        self, *, wait: bool = True, timeout_seconds: float = 600.0, deferrable: bool | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.wait = wait
        self.timeout_seconds = timeout_seconds
        self.deferrable = deferrable

    @abstractmethod
    def change(self, context: Context) -> Service:
        """Record the change; does not wait."""

    def execute(self, context: Context) -> dict[str, Any]:
        """:return: ``{"service", "revision", "host", "gateway_url", "traffic"}``."""
        with fail_for_good():
            service = self.change(context)
            push_service_link(context, self.hook, self.service_name)
            self.log.info("revision %d of %s is recorded", service.revision, service.name)
            # not for what is served already: a trigger that fires at once can overtake Airflow's news of the deferral
            if self.wait and not service.in_sync and self._is_deferrable():
                deadline = time.time() + self.timeout_seconds
                trigger = ServiceInSyncTrigger(self.service_name, self.timl_conn_id, deadline)
                self.defer(trigger=trigger, method_name="execute_complete")
            if self.wait:
                service = self.hook.wait_for_service(self.service_name, timeout_seconds=self.timeout_seconds)
        return self._summarise(service)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """After the wait in the triggerer."""
        if "error" in event:
            raise (AirflowException if event["retryable"] else AirflowFailException)(event["error"])
        return self._summarise(Service.model_validate(event["service"]))

    def _is_deferrable(self) -> bool:
        if self.deferrable is None:
            return conf.getboolean("operators", "default_deferrable", fallback=False)
        return self.deferrable

    def _summarise(self, service: Service) -> dict[str, Any]:
        self.log.info("%s is %s", service.name, service.state)
        return {
            "service": service.name,
            "revision": service.revision,
            "host": service.host,
            "gateway_url": service.gateway_url,
            "traffic": {str(version.version): version.traffic_percent for version in service.versions},
        }


class DeployServiceOperator(_ChangeServiceOperator):
    """Deploy a model version: as a new service with all traffic, or into an existing one with 0 %.

    :param model_name: the model. (templated)
    :param version: its version. (templated)
    :param alias: or an alias of it; neither means the latest version. (templated)
    :param runtime: the program that serves it; by default the one of the model's type. (templated)
    :param options: of the runtime, such as ``{"fc_weight_layout": "in_out"}`` for Angel models. (templated)
    :param resources: of each instance: ``{"cpu": 1, "memory_mb": 512, "gpu": 0}``; without ``memory_mb``, what the
        runtime needs. (templated)
    :param instances: how many. (templated)
    """

    template_fields = (
        *_ChangeServiceOperator.template_fields,
        "model_name",
        "version",
        "alias",
        "runtime",
        "options",
        "instance_resources",
        "instances",
    )

    def __init__(
        self,
        *,
        model_name: str,
        version: int | str | None = None,
        alias: str | None = None,
        runtime: str | None = None,
        options: Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
        instances: int | str = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.version = version
        self.alias = alias
        self.runtime = runtime
        self.options = options
        self.instance_resources = resources  # an operator's own ``resources`` are the task's
        self.instances = instances

    def change(self, context: Context) -> Service:
        return self.hook.deploy_service(
            service_name=self.service_name,
            model_name=self.model_name,
            version=None if self.version in (None, "") else _to_int(self.version, "version"),
            alias=self.alias or None,
            runtime=self.runtime or None,
            options=self.options,
            resources=self.instance_resources,
            instances=_to_int(self.instances, "instances"),
            lineage=build_lineage(context),
            wait=False,
        )


class ShiftTrafficOperator(_ChangeServiceOperator):
    """Split a service's traffic between its versions.

    :param traffic: percent by version, sum exactly 100; versions not named get 0. (templated)
    :param to_version: or: give this version ``percent``, and let the others share the rest as they do now. (templated)
    :param percent: of ``to_version``. (templated)
    """

    template_fields = (*_ChangeServiceOperator.template_fields, "traffic", "to_version", "percent")

    def __init__(
        self,
        *,
        traffic: Mapping[int | str, float | str] | str | None = None,
        to_version: int | str | None = None,
        percent: float | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.traffic = traffic
        self.to_version = to_version
        self.percent = percent

    def change(self, context: Context) -> Service:
        return self.hook.shift_traffic(
            service_name=self.service_name, traffic=self._plan(), lineage=build_lineage(context), wait=False
        )

    def _plan(self) -> dict[int, float]:
        if isinstance(self.traffic, Mapping) and self.to_version is None:
            return {_to_int(version, "traffic"): _to_float(value) for version, value in self.traffic.items()}
        if self.traffic is None and self.to_version is not None and self.percent is not None:
            service = self.hook.get_service(self.service_name)
            return plan_shift(service, _to_int(self.to_version, "to_version"), _to_float(self.percent))
        raise InvalidInputError("give either traffic, or to_version and percent", field="traffic")


class RollbackOperator(_ChangeServiceOperator):
    """Go back to an earlier revision of a service: its versions, instances and traffic.

    :param revision: the revision; by default the one before the present. (templated)
    """

    template_fields = (*_ChangeServiceOperator.template_fields, "revision")

    def __init__(self, *, revision: int | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.revision = revision

    def change(self, context: Context) -> Service:
        lineage = build_lineage(context)
        revisions = self.hook.list_revisions(self.service_name)
        if revisions[0].lineage == lineage:  # an earlier try of this task rolled back already
            return self.hook.get_service(self.service_name)
        if self.revision in (None, ""):
            if len(revisions) < 2:
                raise NotFoundError("revision", f"before the first of service {self.service_name}")
            number = revisions[1].number
        else:
            number = _to_int(self.revision, "revision")
        return self.hook.rollback_service(service_name=self.service_name, revision=number, lineage=lineage, wait=False)


class DeleteServiceOperator(_ServiceOperator):
    """Stop serving. A service that does not exist is no error.

    :param timeout_seconds: how long to wait until the gateway answers 404.
    """

    def __init__(self, *, timeout_seconds: float = 600.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.timeout_seconds = timeout_seconds

    def execute(self, context: Context) -> None:
        with fail_for_good():
            self.hook.delete_service(service_name=self.service_name, timeout_seconds=self.timeout_seconds)


class TestServiceOperator(_ServiceOperator):
    """Send a prediction through the gateway, as a caller would, and check the answer.

    :param body: the request; by default the example of the model's signature. (templated)
    :param version: ask this version, whatever its traffic. (templated)
    :param expect: what the first prediction must be: of an object these outputs, else the whole value; numbers within
        ``rel_tol``. (templated)
    :param rel_tol: relative tolerance.
    """

    __test__ = False
    template_fields = (*_ServiceOperator.template_fields, "body", "version", "expect")

    def __init__(
        self,
        *,
        body: Mapping[str, Any] | None = None,
        version: int | str | None = None,
        expect: JsonValue = None,
        rel_tol: float = _REL_TOL,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.body = body
        self.version = version
        self.expect = expect
        self.rel_tol = rel_tol

    def execute(self, context: Context) -> dict[str, Any]:
        """:return: the answer: ``{"status", "body", "version", "duration_ms"}``."""
        with fail_for_good():
            version = None if self.version in (None, "") else _to_int(self.version, "version")
            answer = self.hook.test_service(service_name=self.service_name, body=self.body, version=version)
            push_service_link(context, self.hook, self.service_name)
        self.log.info("%s answered %d in %.1f ms", answer.version, answer.status, answer.duration_ms)
        problems = find_differences(answer, self.expect, self.rel_tol)
        if problems:
            raise AirflowException(f"service {self.service_name!r}: {'; '.join(problems)}")
        return answer.model_dump()


def plan_shift(service: Service, to_version: int, percent: float) -> dict[int, float]:
    """``percent`` to one version; the others share the rest in the proportion they have, or equally when they have
    none. In whole hundredths; rounding goes to the largest.

    :raises InvalidInputError: the rest has nowhere to go.
    """
    others = {version.version: version.traffic_percent for version in service.versions if version.version != to_version}
    rest = round((100 - percent) * 100)
    if not others:
        if rest:
            raise InvalidInputError(f"version {to_version} is the only one; it can only have 100 %", field="percent")
        return {to_version: 100.0}
    weights = others if any(others.values()) else dict.fromkeys(others, 1.0)
    total = sum(weights.values())
    shares = {version: math.floor(rest * weight / total) for version, weight in weights.items()}
    shares[max(shares, key=lambda version: weights[version])] += rest - sum(shares.values())
    return {to_version: percent, **{version: share / 100 for version, share in shares.items()}}


def find_differences(answer: TestAnswer, expect: JsonValue, rel_tol: float) -> Sequence[str]:
    """What is wrong with an answer, as sentences."""
    if answer.status != 200:
        return [f"answered {answer.status}: {answer.body}"]
    if expect is None:
        return []
    prediction = answer.body["predictions"][0] if "predictions" in answer.body else answer.body
    return list(_compare("prediction", prediction, expect, rel_tol))


def _compare(name: str, found: Any, expected: Any, rel_tol: float) -> Iterator[str]:
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key, value in expected.items():
            yield from _compare(str(key), found.get(key), value, rel_tol)
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for position, (element, value) in enumerate(zip(found, expected, strict=True)):
            yield from _compare(f"{name}[{position}]", element, value, rel_tol)
    elif not _is_close(found, expected, rel_tol):
        yield f"{name} is {found!r}, not {expected!r}"


def _is_close(found: Any, expected: Any, rel_tol: float) -> bool:
    if isinstance(found, (int, float)) and isinstance(expected, (int, float)):
        return math.isclose(found, expected, rel_tol=rel_tol)
    return bool(found == expected)


def _to_int(value: Any, field: str) -> int:
    """Templates render to text."""
    try:
        return int(value)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(f"{value!r} is not a whole number", field=field) from exc


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(f"{value!r} is not a percent", field="traffic") from exc
