"""Websockets: who may open one, and what all consumers share. The routes stand in ``zenglow_site/routing.py``."""
