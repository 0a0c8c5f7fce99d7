r"""Methods made of other methods: any that touch different places, and two that have a name of their own."""
