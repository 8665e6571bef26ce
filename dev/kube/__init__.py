"""The tools that test the Helm chart: helm and kubectl, promtool, a Kubernetes API server."""
