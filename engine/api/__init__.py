"""The HTTP API of the public interface, on uvicorn inside the engine's loop."""
