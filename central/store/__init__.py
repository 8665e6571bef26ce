"""All SQL of the service: named blocks in `central/sql`, one store method for each."""
