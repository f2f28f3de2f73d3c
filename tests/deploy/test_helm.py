"""The chart renders what Kubernetes takes and pgoutbox understands, with the real helm."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgoutbox import __version__
from pgoutbox.cli import main
from pgoutbox.config.load import load
from pgoutbox.config.settings import Config
from tests.deploy.tools import program, run
from tests.support.commands import ROOT
from tools import documents

CHART = documents.CHART
PAGE = (ROOT / "docs" / "deploying.md").read_text("utf-8")

MINIMAL: dict[str, Any] = {"database": {"secret": "shop"}, "nats": {"url": "nats://nats:4222"}}
WAL_LISTENER = {
    "config": {
        "listener": {
            "slotName": "shop",
            "serverPort": 80,
            "filter": {"tables": {"users": ["insert", "update"]}},
        },
        "database": {"host": "postgres", "port": 5432, "name": "shop", "user": "shop"},
        "publisher": {"type": "nats", "address": "nats:4222", "topic": "wal_listener"},
        "monitoring": {"promAddr": ":9090"},
    },
    "env": [
        {
            "name": "WAL_DATABASE_PASSWORD",
            "valueFrom": {"secretKeyRef": {"name": "shop", "key": "password"}},
        }
    ],
}
EVERYTHING = {
    **MINIMAL,
    "image": {"repository": "registry.example/pgoutbox", "tag": "1", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "replicas": 3,
    "configSecret": "wal-listener",
    "env": [{"name": "PGOUTBOX_HEADERS", "value": "true"}],
    "envFrom": [{"secretRef": {"name": "nats"}}],
    "install": {
        "enabled": True,
        "tables": ["users", "billing.invoices"],
        "args": ["--grant-relay=shop_relay"],
        "database": {"secret": "owner", "key": "url"},
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"},
    "serviceAccountName": "shop",
    "volumes": [{"name": "nats", "secret": {"secretName": "nats"}}],
    "volumeMounts": [{"name": "nats", "mountPath": "/etc/nats", "readOnly": True}],
    "podAnnotations": {"example/why": "because"},
    "podLabels": {"example/team": "shop"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "pgoutbox"}},
        }
    ],
    "priorityClassName": "high",
}
CASES: dict[str, dict[str, Any]] = {
    "minimal": MINIMAL,
    "wal-listener": WAL_LISTENER,
    "everything": EVERYTHING,
}

Resource = dict[str, Any]


def template(values: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the command that renders the chart with ``values``."""
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    return ["template", "shop", str(CHART), *documents.HELM_FLAGS, "--values", str(file)]


def render(values: Mapping[str, Any], folder: Path) -> list[Resource]:
    """Return all that the chart makes of ``values``."""
    return list(yaml.safe_load_all(run("helm", *template(values, folder))))


@pytest.fixture(scope="module", params=CASES)
def rendered(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Resource]:
    return render(CASES[request.param], tmp_path_factory.mktemp("values"))


def of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] == kind]


def pods(resources: list[Resource]) -> Iterator[Resource]:
    """Yield the pods of the relay and of the Job."""
    for resource in of_kind(resources, "Deployment") + of_kind(resources, "Job"):
        yield resource["spec"]["template"]


def container(pod: Resource) -> Resource:
    (only,) = pod["spec"]["containers"]
    return dict(only)


def settings(resources: list[Resource], pod: Resource, folder: Path) -> Config:
    """Return the settings that pgoutbox has in that pod; secrets are made up."""
    env = {
        entry["name"]: entry.get("value", "postgresql://shop@postgres/shop")
        for entry in container(pod)["env"]
    }
    file = env.pop("PGOUTBOX_CONFIG", None)
    maps = {
        volume["configMap"]["name"]
        for volume in pod["spec"].get("volumes", [])
        if "configMap" in volume
    }
    for resource in of_kind(resources, "ConfigMap"):
        if resource["metadata"]["name"] in maps:
            assert file == "/etc/pgoutbox/config.yml"
            (folder / "config.yml").write_text(resource["data"]["config.yml"])
            return load({}, env, folder / "config.yml")
    return load({}, env, None)


def test_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert chart["version"] == chart["appVersion"] == __version__


def test_chart_passes_helms_lint(tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text(json.dumps(EVERYTHING))

    run("helm", "lint", "--strict", CHART, "--values", tmp_path / "values.json")


def test_every_resource_is_what_kubernetes_takes(rendered: list[Resource]) -> None:
    """Kubernetes's own schemas, without any field that they don't know."""
    validator = pytest.importorskip(
        "kubernetes_validate.utils",
        reason="kubernetes-validate isn't installed (make test-all does it)",
    )
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    oldest = chart["kubeVersion"].removeprefix(">=").removesuffix("-0")

    for resource in rendered:
        if resource["apiVersion"] != "monitoring.coreos.com/v1":
            for version in (oldest, validator.latest_version()):
                validator.validate(resource, version, strict=True)


def test_pods_run_as_the_user_of_the_image(rendered: list[Resource]) -> None:
    """By its number: Kubernetes can't tell from a name that it isn't root."""
    (user,) = re.findall(r"^USER (.*)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)

    for pod in pods(rendered):
        context = pod["spec"]["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


def test_pods_may_run_where_pod_security_is_restricted(rendered: list[Resource]) -> None:
    for pod in pods(rendered):
        user, process = pod["spec"]["securityContext"], container(pod)["securityContext"]
        assert user["runAsNonRoot"] is True
        assert user["runAsUser"] == user["runAsGroup"] > 0
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert process["allowPrivilegeEscalation"] is False
        assert process["readOnlyRootFilesystem"] is True
        assert process["capabilities"] == {"drop": ["ALL"]}
        assert pod["spec"]["automountServiceAccountToken"] is False


def test_pgoutbox_understands_its_arguments_and_settings(
    rendered: list[Resource], tmp_path: Path
) -> None:
    for pod in pods(rendered):
        name, *rest = container(pod)["args"]
        group = main.make_context("pgoutbox", [name, *rest])
        main.commands[name].make_context(name, rest, parent=group)
        found = settings(rendered, pod, tmp_path)
        assert found.warnings == ()
        assert (str(found.monitoring.health_addr), str(found.monitoring.metrics_addr)) == (
            ":8080",
            ":2112",
        )


def test_probes_and_scrapes_ask_where_the_relay_answers(rendered: list[Resource]) -> None:
    (deployment,) = of_kind(rendered, "Deployment")
    (service,) = of_kind(rendered, "Service")
    relay = container(deployment["spec"]["template"])
    ports = {port["name"]: port["containerPort"] for port in relay["ports"]}

    assert ports == {"probes": 8080, "metrics": 2112}
    assert relay["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "probes"}
    assert relay["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "probes"}
    (port,) = service["spec"]["ports"]
    assert (port["name"], port["targetPort"]) == ("metrics", "metrics")
    for monitor in of_kind(rendered, "ServiceMonitor"):
        assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == ["metrics"]
        labels = service["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_relays_are_selected_and_the_job_is_not(rendered: list[Resource]) -> None:
    (deployment,) = of_kind(rendered, "Deployment")
    (service,) = of_kind(rendered, "Service")
    (budget,) = of_kind(rendered, "PodDisruptionBudget")
    relay, job = (pod["metadata"]["labels"].items() for pod in pods(rendered))

    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= relay
        assert not selector.items() <= job


def test_tables_are_captured_before_relays_start_or_change(rendered: list[Resource]) -> None:
    """By a Job that is a hook, and whose configuration is one that comes before it."""
    (job,) = of_kind(rendered, "Job")
    hooks = {
        resource["metadata"]["name"]: resource["metadata"]["annotations"]
        for resource in rendered
        if "helm.sh/hook" in resource["metadata"].get("annotations", {})
        and resource["kind"] == "ConfigMap"
    }

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    for volume in job["spec"]["template"]["spec"].get("volumes", []):
        if "configMap" in volume:
            annotations = hooks[volume["configMap"]["name"]]
            assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
            assert int(annotations["helm.sh/hook-weight"]) < 0


def test_everything_arrives_where_it_belongs(tmp_path: Path) -> None:
    resources = render(EVERYTHING, tmp_path)
    (deployment,) = of_kind(resources, "Deployment")
    (job,) = of_kind(resources, "Job")
    (rule,) = of_kind(resources, "PrometheusRule")
    relay, install = (container(pod) for pod in pods(resources))

    assert deployment["spec"]["replicas"] == 3
    assert relay["args"] == ["relay"]
    assert install["args"] == [
        *("install", "--table=users", "--table=billing.invoices", "--grant-relay=shop_relay"),
    ]
    assert relay["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "shop", "key": "DATABASE_URL"}
    assert install["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "owner", "key": "url"}
    for pod in pods(resources):
        assert {"name": "config", "secret": {"secretName": "wal-listener"}} in pod["spec"][
            "volumes"
        ]
        assert container(pod)["image"] == "registry.example/pgoutbox:1"
    assert rule["spec"] == yaml.safe_load(documents.ALERTS.read_text("utf-8"))
    assert "annotations" in job["metadata"]


def test_platform_may_choose_the_user(tmp_path: Path) -> None:
    """As OpenShift does; docs/deploying.md names these values."""
    values = {**MINIMAL, "podSecurityContext": {"runAsUser": None, "runAsGroup": None}}

    for pod in pods(render(values, tmp_path)):
        assert pod["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_documented_command_captures_the_documented_tables() -> None:
    (command,) = re.findall(r"^helm install (.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    flags = shlex.split(command.replace("\\\n", " "))

    resources = list(yaml.safe_load_all(run("helm", "template", *flags, *documents.HELM_FLAGS)))

    (_, job) = (container(pod) for pod in pods(resources))
    assert job["args"] == ["install", "--table=users", "--table=billing.invoices"]
    assert job["image"] == f"registry.example/pgoutbox:{__version__}"


def test_values_that_the_page_names_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = re.findall(r"`((?:install|database|serviceMonitor|prometheusRule)\.\w+)", PAGE)

    assert len(named) > 5
    for group, name in (path.split(".")[:2] for path in named):
        assert name in values[group]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({**MINIMAL, "replicas": 1}, "PodDisruptionBudget"),
        ({**MINIMAL, "podDisruptionBudget": {"enabled": False}}, "PodDisruptionBudget"),
        ({**MINIMAL, "install": {"enabled": False}}, "Job"),
        (MINIMAL, "ServiceMonitor"),
        (MINIMAL, "PrometheusRule"),
        (MINIMAL, "ConfigMap"),
    ],
)
def test_what_is_not_wanted_is_not_made(values: dict[str, Any], kind: str, tmp_path: Path) -> None:
    assert of_kind(render(values, tmp_path), kind) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "Set database.secret to the name of a Secret that holds DATABASE_URL."),
        ({"database": {"secret": "shop"}}, "Set nats.url, such as nats://nats:4222."),
        ({**MINIMAL, "replcas": 3}, "replcas"),
        ({**MINIMAL, "replicas": "three"}, "replicas"),
        ({**MINIMAL, "install": {"tables": "users"}}, "tables"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [program("helm"), *template(values, tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert said in done.stderr


def test_plain_manifests_are_what_the_chart_renders() -> None:
    written = documents.MANIFESTS.read_text("utf-8")

    assert written == documents.manifests(program("helm")), (
        f"{documents.MANIFESTS.relative_to(ROOT)} is stale; bring it up to date with: make docs"
    )


def test_plain_manifests_hold_nothing_that_only_helm_reads() -> None:
    text = documents.MANIFESTS.read_text("utf-8")

    assert "helm.sh/hook" not in text
    assert {resource["kind"] for resource in yaml.safe_load_all(text)} == {
        *("Deployment", "Job", "PodDisruptionBudget", "Service"),
    }
