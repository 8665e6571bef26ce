"""The parts of an HTTP service: settings, problems, validation, routing, limits, logs, ops."""
