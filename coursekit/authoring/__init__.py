r"""For those who write the notebooks: refreshed outputs, solved copies, generated cells."""
