"""The model repository: models, versions, aliases, uploads, imports. Every model is inspected before it is one.

``models`` is what the API calls; ``rows`` reads the tables; ``structure`` knows which files a model type has;
``inspection`` parses them in a limited process (``inspect_child``); ``imports`` fetches third-party models from COS.
"""
