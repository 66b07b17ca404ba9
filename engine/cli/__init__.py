"""The subcommands of ``main.py``, each a module with ``add_arguments`` and ``run``."""
