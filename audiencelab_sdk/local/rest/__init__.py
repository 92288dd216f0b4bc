"""The PostgREST dialect: a small REST API in front of any PostgreSQL database."""
