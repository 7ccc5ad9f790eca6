"""Parts of ``second_opinion.py``: optimum's graphs, and the models that are compared."""
