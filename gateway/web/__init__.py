"""The operator's view: dashboard, JSON API, metrics and health, served by the gateway itself."""
