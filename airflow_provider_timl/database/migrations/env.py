"""Alembic's entry: runs the migrations on the connection that ``migrate.py`` hands over."""

from alembic import context

from airflow_provider_timl.database.migrate import VERSION_TABLE
from airflow_provider_timl.database.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
