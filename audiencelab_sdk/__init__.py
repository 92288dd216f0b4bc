"""Typed Python client for AudienceLab V3."""
