"""``python -m airflow_provider_timl.api FILE``: write the OpenAPI document (docs/reference/openapi.json)."""

import json
import sys
from pathlib import Path

from airflow_provider_timl.api.app import build_document, create_app

Path(sys.argv[1]).write_text(json.dumps(build_document(create_app()), indent=2, ensure_ascii=False) + "\n")
