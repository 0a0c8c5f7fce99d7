r"""Selective methods: no new modules, some of the model's own parameters train, whole or in part."""
