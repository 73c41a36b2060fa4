"""TIML's own database: tables, migrations, sessions. Opened by the API and the controller, never by a task."""
