"""The whole system on one machine: embedded Postgres, Texera's schema with a sample world, both
services, a computing unit that replays a workflow file, benchmarks. Nothing here ships.

`dev` imports neither service: it starts them as processes and speaks HTTP to them.
"""
