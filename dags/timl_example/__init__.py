"""What the example DAGs call: training, and writing the trained model as PMML."""
