"""What the Helm chart is tested with: helm and kubectl, promtool, a Kubernetes API server."""
