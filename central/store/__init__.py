"""The SQL of the store: named blocks in `central/sql`, one store method for each."""
