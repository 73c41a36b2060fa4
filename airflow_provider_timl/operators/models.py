"""Operators that fill the model repository. Each emits an asset event ``timl://models/<name>``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset, AssetAlias, Context
from pydantic import JsonValue

from airflow_provider_timl.entities import ModelVersion
from airflow_provider_timl.links.timl import ModelVersionLink
from airflow_provider_timl.operators.task import TimlOperator, build_lineage, fail_for_good, push_model_version_link

_ALIAS_PREFIX = "timl-"


class _VersionMakingOperator(TimlOperator):
    """Makes a model version, and says so in an asset event and in XCom.

    The asset's name is known only when the templates are rendered, so it is added through an alias of the task.
    """

    template_fields: tuple[str, ...] = (
        *TimlOperator.template_fields,
        "model_name",
        "model_type",
        "metrics",
        "tags",
        "aliases",
    )
    operator_extra_links = (ModelVersionLink(),)

    def __init__(
        self,
        *,
        model_name: str,
        model_type: str,
        metrics: Mapping[str, float] | str | None = None,
        tags: Mapping[str, str] | None = None,
        aliases: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.model_type = model_type
        self.metrics = metrics
        self.tags = tags
        self.aliases = aliases
        self.asset_alias = AssetAlias(f"{_ALIAS_PREFIX}{self.task_id}")
        self.outlets = [*self.outlets, self.asset_alias]

    @abstractmethod
    def make_version(self, context: Context) -> ModelVersion:
        """The one call."""

    def execute(self, context: Context) -> dict[str, Any]:
        """:return: ``{"model", "version", "digest", "uri"}``."""
        with fail_for_good():
            version = self.make_version(context)
            push_model_version_link(context, self.hook, version)
        self.log.info("%s version %d is in the repository", version.model, version.version)
        extra: dict[str, JsonValue] = {"version": version.version, "type": version.model_type, "digest": version.digest}
        asset = Asset(name=f"timl-model-{version.model}", uri=f"timl://models/{version.model}")
        context["outlet_events"][self.asset_alias].add(asset, extra=extra)
        return {"model": version.model, "version": version.version, "digest": version.digest, "uri": version.uri}

    def describe(self, context: Context) -> dict[str, Any]:
        """What the hook's two calls have in common."""
        return {
            "model_name": self.model_name,
            "model_type": self.model_type,
            "metrics": self.metrics or {},
            "tags": self.tags or {},
            "aliases": list(self.aliases or ()),
            "lineage": build_lineage(context),
        }


class SaveModelOperator(_VersionMakingOperator):
    """Save a model that a task wrote as the next version of a model.

    A retry with the same content answers the version that was made before.

    :param model_name: the model; it is created with its first version. (templated)
    :param model_type: ``pmml``, ``onnx``, ``tensorflow`` or ``angel``. (templated)
    :param path: file or folder that this worker can read. (templated)
    :param metrics: finite numbers to show beside the version. (templated)
    :param tags: free labels. (templated)
    :param aliases: aliases to point to the new version. (templated)
    """

    template_fields = (*_VersionMakingOperator.template_fields, "path")

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def make_version(self, context: Context) -> ModelVersion:
        return self.hook.save_model(path=self.path, **self.describe(context))


class ImportFromCOSOperator(_VersionMakingOperator):
    """Import a third-party model from COS as the next version of a model.

    :param cos_path: ``cos://bucket/key``, ``s3://bucket/key`` or the object's https address: a file, a prefix, or an
        archive (``.zip``, ``.tar.gz``). Read with the API server's ``[timl] cos_conn_id``. (templated)
    :param model_name: the model; it is created with its first version. (templated)
    :param model_type: ``pmml``, ``onnx``, ``tensorflow`` or ``angel``. (templated)
    """

    template_fields = (*_VersionMakingOperator.template_fields, "cos_path")

    def __init__(self, *, cos_path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cos_path = cos_path

    def make_version(self, context: Context) -> ModelVersion:
        return self.hook.import_model(cos_path=self.cos_path, **self.describe(context))
