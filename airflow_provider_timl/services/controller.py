"""The controller: observe, plan, apply, again and again, and write down what was observed.

It owns no state that matters. Killed at any moment, the next one continues from the database, the backend's instances
and what the gateway serves. It starts instances and the gateway through the backend and leaves them running when it
ends. One controller runs at a time (``airflow timl controller`` takes a lock).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from airflow_provider_timl.backends.contract import Backend, GatewayStatus, InstanceStatus, ServiceRoute
from airflow_provider_timl.database.sessions import Database, record_event
from airflow_provider_timl.database.tables import ServiceRow, ServiceVersionRow, utc_now
from airflow_provider_timl.repository.models import ModelRepository
from airflow_provider_timl.services.keys import KeyCipher
from airflow_provider_timl.services.plan import WantedService, plan_changes
from airflow_provider_timl.services.report import ServiceReport, build_report
from airflow_provider_timl.services.wanted import (
    ServiceRecord,
    label_versions,
    list_labels,
    list_service_records,
    read_wanted_service,
)
from airflow_provider_timl.settings import Settings
from airflow_provider_timl.states import ServiceState

log = logging.getLogger(__name__)

_STEP_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 2.0  # dead instances are restarted by the steps
_COLLECT_EVERY = timedelta(minutes=10)
_ACTOR = "controller"


class Controller:
    """Makes the backend match the database."""

    def __init__(self, database: Database, settings: Settings, backend: Backend, repository: ModelRepository) -> None:
        self._database = database
        self._backend = backend
        self._repository = repository
        self._cipher = KeyCipher(settings.encryption_key)
        self._wanted: dict[int, tuple[WantedService, datetime | None]] = {}
        self._written: dict[int, ServiceReport] = {}
        self._collect_at = utc_now()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. An error is logged and tried again, with growing pauses."""
        self._backend.start()
        pause = _STEP_SECONDS
        try:
            while not stop.is_set():
                try:
                    self.step()
                    pause = _STEP_SECONDS
                except Exception:  # the outermost loop: whatever it was, the services must go on being looked after
                    log.exception("step failed; trying again in %.1f s", pause)
                    self._written.clear()
                    pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                self._backend.wait_for_change(pause)
        finally:
            self._backend.stop()

    def step(self) -> None:
        """One round. Instances and the gateway are looked after first, so they heal even without a database."""
        instances = self._backend.list_instances()
        gateway = self._backend.get_gateway_status()
        with self._database.read() as session:
            records = list_service_records(session)
            wanted = self._read_wanted(session, records)
        try:
            if self._apply(wanted, instances, gateway):
                instances = self._backend.list_instances()
                gateway = self._backend.get_gateway_status()
        finally:  # what is, is reported even when nothing can be done about it
            self._write_reports(records, wanted, instances, gateway)
        self._collect_garbage()

    def _read_wanted(self, session: Session, records: list[ServiceRecord]) -> list[WantedService]:
        """Wanted services; read again only when their generation moved or a key expired, but for their labels."""
        now = utc_now()
        labels = list_labels(session)
        current = {}
        for record in records:
            if record.state is ServiceState.DELETING:
                continue
            wanted, expires_at = self._wanted.get(record.id, (None, None))
            if wanted is None or wanted.generation != record.generation or (expires_at and expires_at <= now):
                wanted, expires_at = read_wanted_service(session, self._repository, self._cipher, record.id, now)
            current[record.id] = (label_versions(wanted, record.model, labels), expires_at)
        self._wanted = current
        return [wanted for wanted, _ in current.values()]

    def _apply(
        self, wanted: list[WantedService], instances: list[InstanceStatus], gateway: GatewayStatus | None
    ) -> bool:
        """Carry out the plan; whether there was anything to do. Without a gateway nothing may be drained."""
        if gateway is None:
            log.warning("the gateway does not answer")
            return False
        plan = plan_changes(wanted, instances, gateway.config)
        for spec in plan.start:
            log.info("start %s", spec.id)
            self._backend.ensure_instance(spec)
        if plan.config != gateway.config:
            self._backend.publish(plan.config)
            log.info("gateway serves %s", _describe(plan.config.routes))
        for instance_id in plan.drain:
            log.info("drain %s", instance_id)
            self._backend.drain_instance(instance_id)
        return bool(plan.start or plan.drain or plan.config != gateway.config)

    def _write_reports(
        self,
        records: list[ServiceRecord],
        wanted: list[WantedService],
        instances: list[InstanceStatus],
        gateway: GatewayStatus | None,
    ) -> None:
        """Write what changed since it was last written."""
        by_id = {instance.id: instance for instance in instances}
        services = {service.id: service for service in wanted}
        for record in records:
            if record.id not in services:
                self._finish_deletion(record, gateway)
                continue
            was_in_sync = record.observed_generation >= record.generation
            report = build_report(services[record.id], by_id, gateway, was_in_sync)
            if report != self._written.get(record.id):
                self._write_report(record, report)
                self._written[record.id] = report

    def _write_report(self, record: ServiceRecord, report: ServiceReport) -> None:
        with self._database.write() as session:
            row = session.get_one(ServiceRow, record.id, with_for_update=True)
            if row.generation != report.generation or row.state == ServiceState.DELETING:
                return  # it was changed meanwhile: this report is about the wish before
            row.state = report.state.value
            if report.in_sync:
                row.observed_generation = report.generation
            gone = ServiceVersionRow.version.not_in(report.versions)
            session.execute(delete(ServiceVersionRow).where(ServiceVersionRow.service_id == row.id, gone))
            for version, seen in report.versions.items():
                session.merge(
                    ServiceVersionRow(
                        service_id=row.id,
                        version=version,
                        state=seen.state.value,
                        ready_instances=seen.ready_instances,
                        reason=seen.reason,
                    )
                )
        log.info("service %s is %s", record.name, report.state)

    def _finish_deletion(self, record: ServiceRecord, gateway: GatewayStatus | None) -> None:
        """Call it deleted once the gateway itself no longer serves it; its instances drain on their own."""
        if gateway is None or any(route.service == record.name for route in gateway.config.routes):
            return
        with self._database.write() as session:
            row = session.get_one(ServiceRow, record.id, with_for_update=True)
            row.state = ServiceState.DELETED.value
            row.deleted_at = utc_now()
            row.observed_generation = row.generation
            session.execute(delete(ServiceVersionRow).where(ServiceVersionRow.service_id == row.id))
            record_event(session, _ACTOR, "deleted", f"service:{record.name}")
        self._written.pop(record.id, None)

    def _collect_garbage(self) -> None:
        now = utc_now()
        if now < self._collect_at:
            return
        self._collect_at = now + _COLLECT_EVERY
        collected = self._repository.collect_uploads(now)
        if collected:
            log.info("collected %d upload(s) that were never committed", collected)


def _describe(routes: Sequence[ServiceRoute]) -> str:
    """Weights by service, for the log; never keys."""
    return (
        "; ".join(
            f"{route.service}: "
            + ", ".join(f"v{v.version} {v.weight / 100:g} % x{len(v.addresses)}" for v in route.versions)
            for route in routes
        )
        or "no service"
    )
