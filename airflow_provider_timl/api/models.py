"""Routes of the model repository."""

from __future__ import annotations

from fastapi import APIRouter, Response, status

from airflow_provider_timl.api.access import READ, WRITE, Actor
from airflow_provider_timl.api.bodies import (
    BeginUpload,
    CommitUpload,
    ImportModel,
    Limit,
    Listing,
    ModelPath,
    Offset,
    SetAlias,
    UpdateVersion,
    VersionPath,
)
from airflow_provider_timl.api.context import Context
from airflow_provider_timl.entities import Model, ModelDetail, ModelVersion, Runtime, Upload
from airflow_provider_timl.runtimes.contract import list_runtimes

router = APIRouter(tags=["models"])


@router.get("/models", dependencies=[READ])
def list_models(context: Context, limit: Limit = 100, offset: Offset = 0) -> Listing[Model]:
    """Models by name."""
    models, total = context.repository.list_models(limit, offset)
    return Listing(items=models, total=total, limit=limit, offset=offset)


@router.get("/models/{model}", dependencies=[READ])
def get_model(model: ModelPath, context: Context) -> ModelDetail:
    """A model with its versions, newest first."""
    return context.repository.get_model(model)


@router.post("/models/{model}/versions:begin", dependencies=WRITE, status_code=status.HTTP_201_CREATED)
def begin_upload(model: ModelPath, body: BeginUpload, actor: Actor, context: Context) -> Upload:
    """A fresh place for the files of a new version."""
    return context.repository.begin_upload(model_name=model, model_type=body.model_type, actor=actor)


@router.post("/models/{model}/versions:commit", dependencies=WRITE, status_code=status.HTTP_201_CREATED)
def commit_upload(model: ModelPath, body: CommitUpload, actor: Actor, context: Context) -> ModelVersion:
    """Verify and inspect the uploaded files and make them the next version. Repeating it is safe."""
    return context.repository.commit_upload(model_name=model, actor=actor, **dict(body))


@router.get("/models/{model}/versions/{version}", dependencies=[READ])
def get_version(model: ModelPath, version: VersionPath, context: Context) -> ModelVersion:
    return context.repository.get_version(name=model, version=version)


@router.patch("/models/{model}/versions/{version}", dependencies=WRITE)
def update_version(
    model: ModelPath, version: VersionPath, body: UpdateVersion, actor: Actor, context: Context
) -> ModelVersion:
    """Replace tags or metrics."""
    return context.repository.update_version(name=model, version=version, actor=actor, **dict(body))


@router.delete("/models/{model}/versions/{version}", dependencies=WRITE, status_code=status.HTTP_204_NO_CONTENT)
def delete_version(model: ModelPath, version: VersionPath, actor: Actor, context: Context) -> Response:
    """Delete a version and its files; refused while a service or an alias uses it."""
    context.repository.delete_version(name=model, version=version, actor=actor)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.put("/models/{model}/aliases/{alias}", dependencies=WRITE)
def set_alias(model: ModelPath, alias: str, body: SetAlias, actor: Actor, context: Context) -> ModelVersion:
    """Point an alias to a version; moves it when it exists."""
    return context.repository.set_alias(name=model, alias=alias, version=body.version, actor=actor)


@router.delete("/models/{model}/aliases/{alias}", dependencies=WRITE, status_code=status.HTTP_204_NO_CONTENT)
def delete_alias(model: ModelPath, alias: str, actor: Actor, context: Context) -> Response:
    context.repository.delete_alias(name=model, alias=alias, actor=actor)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.post("/imports", dependencies=WRITE, status_code=status.HTTP_201_CREATED)
def import_model(body: ImportModel, actor: Actor, context: Context) -> ModelVersion:
    """Copy a model from COS: a file, a prefix, or an archive."""
    return context.repository.import_model(
        model_name=body.model_name,
        model_type=body.model_type,
        source_uri=body.cos_path,
        s3_client=context.build_s3_client(context.settings.cos_conn_id),
        actor=actor,
        metrics=body.metrics,
        tags=body.tags,
        aliases=body.aliases,
        lineage=body.lineage,
    )


@router.get("/runtimes", dependencies=[READ])
def get_runtimes() -> list[Runtime]:
    """Runtimes that are registered here, and what is missing to use them."""
    return [
        Runtime(
            name=program.name,
            model_type=program.model_type,
            options=program.options.model_json_schema(),
            installed=missing is None,
            missing=missing,
        )
        for program in list_runtimes()
        for missing in [program.find_missing()]
    ]
