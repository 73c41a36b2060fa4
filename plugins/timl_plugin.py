"""For deployments that mount a plugins folder: registers the plugin unless the installed package does so itself.

Airflow's task processes stop reading entry points at the first plugin that a folder registered already, so a second
registration would make other plugins vanish there.
"""

from importlib.metadata import entry_points

if not any(point.name == "timl" for point in entry_points(group="airflow.plugins")):
    from airflow_provider_timl.plugin import TimlPlugin  # noqa: F401
