r"""What a notebook imports: tables, claims, times, how a check looks at a class; its parameters and generated cells."""
