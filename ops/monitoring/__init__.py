"""Prometheus and Grafana for rba: documentation, rules, dashboard and deployment, all written from `protocol.catalogue`."""
