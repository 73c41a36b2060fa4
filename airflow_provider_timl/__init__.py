"""Model repository, model services and batch prediction for Apache Airflow."""

from airflow_provider_timl.provider_info import VERSION

__version__ = VERSION
