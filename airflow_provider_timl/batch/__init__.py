"""Offline prediction: ``score`` is a program that scores files with an engine in bounded memory; ``tables`` reads and
writes them. Started by ``BatchPredictOperator``, without HTTP and without Airflow."""
