"""What both services share and that knows neither: HTTP plumbing and Texera's formats."""
