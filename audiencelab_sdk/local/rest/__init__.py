"""A REST API with PostgREST's dialect for any PostgreSQL database."""
