"""Model repository, model services and batch prediction for Apache Airflow."""

__version__ = "0.1.0"
