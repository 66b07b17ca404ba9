"""Ways to run the engine's parts: the demo now, intake and execution apart later."""
