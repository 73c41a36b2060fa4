"""``airflow timl …``: ``commands`` is light, for argparse; ``models``, ``services`` and ``server`` act."""
