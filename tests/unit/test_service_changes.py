"""What may be wished of a service, and what is refused before anything is recorded."""

from __future__ import annotations

import pytest

from airflow_provider_timl.entities import Resources, ServiceSpec, ServiceVersionSpec
from airflow_provider_timl.exceptions import ConflictError, InvalidInputError, NotFoundError
from airflow_provider_timl.services.changes import add_version, remove_version, set_traffic


def version(number: int, percent: float = 0, instances: int = 1) -> ServiceVersionSpec:
    return ServiceVersionSpec(version=number, runtime="pmml", instances=instances, traffic_percent=percent)


SPLIT = ServiceSpec(versions=[version(1, 90), version(2, 10), version(3)])


def test_first_version_gets_all_traffic_and_later_ones_none() -> None:
    spec = add_version(ServiceSpec(versions=[]), "iris", version(4))
    spec = add_version(spec, "iris", version(7))
    assert [(v.version, v.traffic_percent) for v in spec.versions] == [(4, 100), (7, 0)]


def test_adding_what_is_there_changes_nothing_whatever_its_traffic() -> None:
    assert add_version(SPLIT, "iris", version(2)) == SPLIT


def test_adding_a_version_again_with_other_resources_is_refused() -> None:
    other = version(2).model_copy(update={"resources": Resources(cpu=2)})
    with pytest.raises(ConflictError, match="already in service 'iris'"):
        add_version(SPLIT, "iris", other)


def test_version_with_traffic_cannot_be_removed() -> None:
    with pytest.raises(ConflictError, match="serves 10 % of 'iris'"):
        remove_version(SPLIT, "iris", 2)
    assert [v.version for v in remove_version(SPLIT, "iris", 3).versions] == [1, 2]


def test_last_version_cannot_be_removed() -> None:
    with pytest.raises(ConflictError, match="delete the service"):
        remove_version(ServiceSpec(versions=[version(1, 100)]), "iris", 1)


def test_hundredths_of_a_percent_sum_exactly() -> None:
    spec = set_traffic(SPLIT, "iris", {1: 33.33, 2: 33.33, 3: 33.34}, {1: 1, 2: 1, 3: 1})
    assert [v.traffic_percent for v in spec.versions] == [33.33, 33.33, 33.34]


def test_versions_not_named_get_no_traffic() -> None:
    spec = set_traffic(SPLIT, "iris", {2: 100}, {2: 1})
    assert [v.traffic_percent for v in spec.versions] == [0, 100, 0]


@pytest.mark.parametrize("traffic", [{1: 90, 2: 9.99}, {1: 100, 2: 0.01}, {}])
def test_percents_that_do_not_sum_to_100_are_refused(traffic: dict[int, float]) -> None:
    with pytest.raises(InvalidInputError, match="not 100"):
        set_traffic(SPLIT, "iris", traffic, {1: 1, 2: 1, 3: 1})


def test_version_without_a_ready_instance_cannot_gain_traffic() -> None:
    with pytest.raises(ConflictError, match="version 3 of 'iris' has no ready instance"):
        set_traffic(SPLIT, "iris", {1: 50, 3: 50}, {1: 1, 2: 1, 3: 0})


def test_traffic_may_leave_a_version_that_is_not_ready() -> None:
    spec = set_traffic(SPLIT, "iris", {1: 95, 2: 5}, {1: 1, 2: 0})
    assert [v.traffic_percent for v in spec.versions] == [95, 5, 0]


def test_unknown_version_is_named() -> None:
    with pytest.raises(NotFoundError, match="9 of service iris"):
        set_traffic(SPLIT, "iris", {9: 100}, {9: 1})
