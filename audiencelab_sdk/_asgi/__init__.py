"""API keys in applications of Starlette and of FastAPI. Needs the extra ``starlette``."""
