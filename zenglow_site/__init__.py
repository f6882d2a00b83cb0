"""Assembles ZenGlow: settings, routes, servers and the embedded stack."""
