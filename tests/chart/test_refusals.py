"""Values that cannot work are refused, by the schema or by the render, with what is wrong."""

from typing import Any

import pytest

from tests.chart.rendering import Chart, Refused

ANYWHERE = {"ipBlock": {"cidr": "0.0.0.0/0"}}
RANGE = {"to": [{"podSelector": {}}], "ports": [{"port": 5000, "endPort": 6000}]}

IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "no database secret": (
        {"central": {"database": {"existingSecret": {"name": ""}}}},
        "central.database.existingSecret.name",
    ),
    "no way to verify a token": (
        {"central": {"jwt": {"existingSecret": {"name": ""}}}},
        "central.jwt: set one of",
    ),
    "two ways to verify a token": (
        {"central": {"jwt": {"jwks": {"url": "http://issuer.example/jwks"}}}},
        "central.jwt: set one of",
    ),
    "a secret for public-key algorithms": (
        {"central": {"settings": {"jwtAlgorithms": "RS256"}}},
        "RS256 takes a key set",
    ),
    "a key set for shared-secret algorithms": (
        {"central": {"jwt": {"existingSecret": {"name": ""}, "jwks": {"url": "http://a.b/c"}}}},
        "must name the key set's algorithms",
    ),
    "two authorities for key sets": (
        {
            "central": {
                "jwt": {"existingSecret": {"name": ""}, "jwks": {"url": "https://a.b/c"}},
                "settings": {"jwtAlgorithms": "RS256"},
            }
        },
        "workloadIdentity.jwks: central trusts one CA",
    ),
    "no key set of the cluster's": (
        {"workloadIdentity": {"jwks": {"url": ""}}},
        "workloadIdentity.jwks: set url or configMap.name",
    ),
    "no owner's secret": (
        {"migration": {"ownerSecret": {"name": ""}}},
        "migration.ownerSecret.name",
    ),
    "central among the computing units": ({"poolNamespace": "texera"}, "poolNamespace"),
    "no word on who makes the certificate": ({"tls": {"mode": ""}}, "tls.mode: choose"),
    "TLS without a certificate": ({"tls": {"mode": "existingSecret"}}, "tls.secretName"),
    "an authority that is none": ({"tls": {"ca": "trust.pem"}}, "tls.ca: must hold"),
    "two authorities": (
        {"tls": {"ca": "-----BEGIN CERTIFICATE-----", "caConfigMap": {"name": "trust"}}},
        "tls: set one of ca and caConfigMap.name",
    ),
    "an authority beside the chart's own": (
        {"tls": {"mode": "selfSigned", "caConfigMap": {"name": "trust"}}},
        "tls.ca: must be empty",
    ),
    "cert-manager without an issuer": (
        {"tls": {"mode": "certManager", "caConfigMap": {"name": "trust"}}},
        "tls.certManager.issuerRef.name",
    ),
    "an issuer that sidecars do not trust": (
        {"tls": {"mode": "certManager", "certManager": {"issuerRef": {"name": "ca"}}}},
        "tls.caConfigMap.name: must name the ConfigMap with the issuer's CA",
    ),
    "an issuer of one of the two namespaces": (
        {
            "tls": {
                "mode": "certManager",
                "certManager": {"issuerRef": {"name": "ca", "kind": "Issuer"}},
                "clients": {"mode": "require"},
            }
        },
        "tls.certManager.issuerRef.kind: must be ClusterIssuer",
    ),
    "certificates of clients without TLS": (
        {"tls": {"clients": {"mode": "require"}}},
        "tls.clients.mode: must be none",
    ),
    "sidecars without a certificate to show": (
        {
            "tls": {
                "mode": "existingSecret",
                "secretName": "central-tls",
                "clients": {"mode": "require"},
            }
        },
        "tls.clients.secretName",
    ),
    "two makers of the sidecars' certificate": (
        {"tls": {"mode": "selfSigned", "clients": {"volume": {"emptyDir": {}}}}},
        "tls.clients.volume: must be empty",
    ),
    "more connections than the budget": (
        {"central": {"replicas": 5}},
        "5 replicas, two more while rolling out, times settings.poolMaxSize 10",
    ),
    "more connections than the budget, once scaled up": (
        {"central": {"autoscaling": {"enabled": True, "maxReplicas": 6}}},
        "take 81 connections",
    ),
    "fewest above most": (
        {"central": {"autoscaling": {"enabled": True, "minReplicas": 4, "maxReplicas": 3}}},
        "central.autoscaling.minReplicas",
    ),
    "a pool that starts above its end": (
        {"central": {"settings": {"poolMinSize": 11}}},
        "central.settings.poolMinSize",
    ),
    "a drain that SIGKILL cuts off": (
        {"central": {"settings": {"drainTimeoutS": 25.5}}},
        "drainDelayS, drainTimeoutS and 5 s take 35.5 s, more than 35",
    ),
    "a drain shorter than a statement": (
        {"central": {"settings": {"databaseTimeoutS": 21}}},
        "central.settings.drainTimeoutS: must not be shorter than databaseTimeoutS",
    ),
    "a lease that a lost packet ends": (
        {"central": {"settings": {"leaseS": 60}}},
        "central.settings.leaseS: must be longer than three of sidecar.settings.leaseRenewS, 60 s",
    ),
    "a volume that the spool fills": (
        {"sidecar": {"spoolVolume": {"sizeLimit": "831Mi"}}},
        "sidecar.spoolVolume.sizeLimit",
    ),
    "a spool that fills the volume": (
        {"sidecar": {"settings": {"spoolMaxBytes": 1024**3}}},
        "sidecar.spoolVolume.sizeLimit",
    ),
    "a cache that fills the memory": (
        {"sidecar": {"settings": {"cacheMaxBytes": 64 * 1024**2}}},
        "sidecar.resources.memory",
    ),
    "two listeners on one port of the sidecar": ({"sidecar": {"opsPort": 7070}}, "sidecar.opsPort"),
    "two listeners on one port of central": (
        {"central": {"service": {"opsPort": 7080}}},
        "central.service.opsPort",
    ),
    "a setting past its place": (
        {"central": {"extraEnv": [{"name": "CENTRAL_POOL_MAX_SIZE", "value": "99"}]}},
        "CENTRAL_POOL_MAX_SIZE is set by central.settings or by the chart",
    ),
    "no word on what is stripped": ({"injection": {"strip": None}}, "injection.strip: choose"),
    "an endpoint that is stripped": (
        {"injection": {"env": {"STORAGE_JDBC_URL": "x"}}},
        "injection.env: STORAGE_JDBC_URL is also in injection.strip",
    ),
    "a network policy without the database": (
        {"networkPolicy": {"central": {"enabled": True, "allow": [RANGE]}}},
        "networkPolicy.central.database.to",
    ),
    "a way to Postgres": (
        {"networkPolicy": {"computingUnits": {"enabled": True, "allow": [RANGE]}}},
        "port 5432 is Postgres'",
    ),
    "a way to Postgres where central has it": (
        {
            "networkPolicy": {
                "computingUnits": {"enabled": True, "allow": [RANGE | {"ports": [{"port": 6432}]}]},
                "central": {"database": {"port": 6432}},
            }
        },
        "port 6432 is Postgres'",
    ),
    "a scraper that is kept out": (
        {
            "networkPolicy": {
                "central": {
                    "enabled": True,
                    "database": {"to": [{"podSelector": {}}]},
                    "allow": [RANGE],
                }
            },
            "monitoring": {"serviceMonitor": {"enabled": True}},
        },
        "networkPolicy.central.scrapers",
    ),
    "no way to the key sets": (
        {
            "networkPolicy": {
                "central": {"enabled": True, "database": {"to": [{"podSelector": {}}]}}
            }
        },
        "networkPolicy.central.allow: must allow central to fetch its key sets",
    ),
    "autoscaling without a measure": (
        {
            "central": {
                "autoscaling": {"enabled": True},
                "resources": {"requests": {"cpu": None}},
            }
        },
        "central.resources.requests.cpu",
    ),
    "algorithms of two kinds": (
        {"central": {"settings": {"jwtAlgorithms": "HS256, RS256"}}},
        "HS256, RS256 mixes algorithms",
    ),
    "a name that no Service can have": ({"fullnameOverride": "1st"}, "1st does not"),
}

ILL_TYPED: dict[str, dict[str, Any]] = {
    "an unknown value": {"centrall": {}},
    "an unknown value below": {"central": {"replica": 2}},
    "an unknown setting": {"central": {"settings": {"poolMaximumSize": 3}}},
    "a setting of the other service": {"sidecar": {"settings": {"poolMaxSize": 3}}},
    "a setting that the chart makes itself": {"central": {"settings": {"databaseUrl": "x"}}},
    "no replicas": {"central": {"replicas": 0}},
    "replicas in words": {"central": {"replicas": "two"}},
    "an empty pool": {"central": {"settings": {"poolMaxSize": 0}}},
    "a size without a unit": {"sidecar": {"spoolVolume": {"sizeLimit": "1000000000"}}},
    "a port out of range": {"sidecar": {"port": 70700}},
    "a namespace with capitals": {"poolNamespace": "Pool"},
    "an unknown mode": {"injection": {"mode": "webhook"}},
    "an unknown maker of certificates": {"tls": {"mode": "vault"}},
    "two sources of a volume": {"tls": {"clients": {"volume": {"csi": {}, "secret": {}}}}},
    "an unknown API": {"injection": {"apiVersion": "v2"}},
    "a mode that YAML takes for false": {"workloadIdentity": {"mode": False}},
    "an address block without exceptions": {
        "networkPolicy": {"computingUnits": {"allow": [RANGE | {"to": [ANYWHERE]}]}}
    },
    "a way to every port": {"networkPolicy": {"computingUnits": {"allow": [{"to": [{}]}]}}},
    "an unknown action": {"validation": {"action": "Audit"}},
    "a name with a dot": {"fullnameOverride": "texera.metadata"},
    "a label that selectors go by": {"central": {"podLabels": {"app.kubernetes.io/name": "x"}}},
    "a common label that selectors go by": {"commonLabels": {"app.kubernetes.io/component": "x"}},
    "a volume of the chart's own name": {
        "central": {"extraVolumes": [{"name": "tls", "emptyDir": {}}]}
    },
    "the computing unit's port": {"sidecar": {"port": 8085}},
    "a stripped name of the sidecar's own": {"injection": {"strip": ["SIDECAR_CENTRAL_URL"]}},
    "a way to a port by its name": {
        "networkPolicy": {
            "computingUnits": {"allow": [RANGE | {"ports": [{"port": "tcp-postgresql"}]}]}
        }
    },
    "a stripped name that is none": {"injection": {"strip": ["STORAGE JDBC"]}},
    "an envFrom of no kind": {"validation": {"allowedEnvFrom": ["texera-env"]}},
    "the computing unit's user": {"sidecar": {"runAsUser": 1001}},
    "root": {"sidecar": {"runAsUser": 0}},
    "a truncated digest": {"central": {"image": {"digest": "sha256:0123"}}},
    "a log level that is none": {"central": {"settings": {"logLevel": "loud"}}},
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_values_that_cannot_work_together_are_refused(chart: Chart, case: str) -> None:
    values, sentence = IMPOSSIBLE[case]

    with pytest.raises(Refused) as refused:
        chart.render(**values)

    assert "these values cannot work" in str(refused.value)
    assert sentence in str(refused.value)
    assert str(refused.value).count("\n  - ") == 1  # nothing else is found wrong


@pytest.mark.parametrize("case", ILL_TYPED)
def test_values_of_the_wrong_form_are_refused(chart: Chart, case: str) -> None:
    with pytest.raises(Refused, match="values don't meet the specifications of the schema"):
        chart.render(**ILL_TYPED[case])


def test_all_errors_are_reported_together(chart: Chart) -> None:
    values = {"poolNamespace": "texera", "central": {"replicas": 5}, "injection": {"strip": None}}

    with pytest.raises(Refused) as refused:
        chart.render(**values)

    for place in ("poolNamespace", "central.database.connectionBudget", "injection.strip"):
        assert place in str(refused.value)


def test_the_defaults_alone_are_refused(chart: Chart) -> None:
    """Three Secrets, what to strip, and who makes the certificate are for the operator to say."""
    with pytest.raises(Refused) as refused:
        chart.run(chart.template, None, {})

    assert str(refused.value).count("\n  - ") == 5


def test_an_older_kubernetes_needs_the_beta_api(chart: Chart) -> None:
    with pytest.raises(Refused, match=r"v1 needs Kubernetes 1\.36"):
        chart.run([*chart.template, "--kube-version=1.35"], [], {})

    assert chart.run([*chart.template, "--kube-version=1.35"], ["injection-beta"], {})
    assert chart.run([*chart.template, "--kube-version=1.36"], [], {})
    with pytest.raises(Refused, match="incompatible with Kubernetes"):
        chart.run([*chart.template, "--kube-version=1.33"], ["injection-beta"], {})
