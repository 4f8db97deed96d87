"""The Helm chart: what it renders is pinned, valid, without privileges, and runs docmill's own commands."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from click.testing import CliRunner

from docmill.worker.cli import all_commands, docmill
from docmill.worker.settings import ENQUEUE_LANE, LANES, Settings
from tests.containers import DOCKERFILE
from tests.deploy import chart
from tests.deploy.chart import CASES, URLS, Manifest, cases, pod_specs, render

VERSIONS = ("1.27", "1.37")  # of Kubernetes: the oldest that Chart.yaml allows, and the newest whose schemas are here
KNOWN = {f"DOCMILL_{name.upper()}" for name in Settings.model_fields}

needs_helm = pytest.mark.skipif(
    not chart.HAS_HELM and "CI" not in os.environ, reason="helm-python-sdk has no wheel for this machine"
)
pytestmark = [needs_helm]
SECRETS = {
    "DOCMILL_DATABASE_URL": "postgresql://db/docmill",
    "DOCMILL_REDIS_URL": "redis://queue",
    "DOCMILL_WEB_TOKEN": "0123456789abcdef",
}
every_case = pytest.mark.parametrize("case", CASES)


def containers(case: str) -> Iterator[tuple[str, Manifest]]:
    for name, pod in pod_specs(cases()[case].manifests):
        for container in pod["containers"]:
            yield name, container


def environment(container: Manifest) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}


@every_case
def test_the_rendered_files_are_the_pinned_ones_and_helm_lints_the_chart_without_a_warning(case: str) -> None:
    assert cases()[case].text == chart.pinned(case), "python -m tests.deploy.chart pins them anew"
    assert cases()[case].problems == ()


@every_case
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_has_a_schema_for_each_manifest_and_finds_it_valid(case: str, version: str) -> None:
    import kubernetes_validate

    for one in cases()[case].manifests:
        if not one["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_keda_finds_its_manifests_valid() -> None:
    from cloudcoil.models.keda import v1alpha1

    def again(manifest: Manifest) -> Any:
        read = getattr(v1alpha1, manifest["kind"]).model_validate(manifest)
        return json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))

    found = [one for one in cases()["gpu"].manifests if one["apiVersion"].startswith("keda.sh/")]
    assert sorted(one["kind"] for one in found) == ["ScaledObject", "ScaledObject", "TriggerAuthentication"]
    for one in found:
        assert again(one) == one  # a field that KEDA does not know would be missing


@every_case
def test_every_pod_runs_without_privileges_on_a_disk_that_is_read(case: str) -> None:
    user = int(re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)[0])
    for name, pod in pod_specs(cases()[case].manifests):
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, user, user), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & pod.keys()
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} == container["resources"].keys()
            assert "memory" in container["resources"]["limits"]
            mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert {"/data", "/tmp"} <= mounted.keys()
            assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}


@every_case
def test_every_setting_is_one_that_docmill_knows_and_takes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from docmill.worker.settings import load_settings

    for name, container in containers(case):
        given = environment(container)
        assert {key for key in given if key.startswith("DOCMILL_")} <= KNOWN, name
        with monkeypatch.context() as patch:
            for key, value in given.items():
                patch.setenv(key, value or SECRETS[key])
            settings = load_settings()
        assert set(settings.lanes) <= {*LANES, ENQUEUE_LANE}


@every_case
def test_every_command_is_one_of_docmills(case: str) -> None:
    for name, container in containers(case):
        assert "command" not in container, "the image's own is docmill"
        arguments = [str(one) for one in container["args"]]
        assert arguments[0] in all_commands(), name
        told = CliRunner().invoke(docmill, [*arguments, "--help"])
        assert told.exit_code == 0, (name, told.output)
        for probe in probes(container):
            words = probe["command"][-1].split(";")[0].split() if probe["command"][0] == "sh" else probe["command"]
            assert words[0] == "docmill"
            assert CliRunner().invoke(docmill, [*words[1:], "--help"]).exit_code == 0


def probes(container: Manifest) -> list[Manifest]:
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    return [container[kind]["exec"] for kind in kinds if "exec" in container.get(kind, {})]


def test_the_time_to_stop_follows_the_time_to_drain() -> None:
    [rendered] = render({**URLS, "drainSeconds": 120})
    [worker] = [pod for name, pod in pod_specs(rendered.manifests) if name == "docmill-worker-cpu"]
    assert worker["terminationGracePeriodSeconds"] == 143
    assert environment(worker["containers"][0])["DOCMILL_DRAIN_S"] == "120"


@every_case
def test_every_secret_that_is_read_is_made_or_named_by_the_values(case: str) -> None:
    made = {one["metadata"]["name"] for one in cases()[case].manifests if one["kind"] == "Secret"}
    read = {
        one["valueFrom"]["secretKeyRef"]["name"]
        for _, container in containers(case)
        for one in container["env"]
        if "valueFrom" in one
    }
    if case == "default":
        assert read <= made
    else:
        assert not made
        assert read == {"docmill-worker", "docmill-owner", "docmill-orders", "docmill-web"}
    for text in cases()[case].files.values():
        if "kind: Secret" not in text:
            assert "postgresql://" not in text


def test_pods_are_reached_by_the_ports_that_they_serve_alone_and_may_be_evicted_one_by_one() -> None:
    for rendered in cases().values():
        policy = rendered.named("NetworkPolicy", "docmill")["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        reached = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
        served = [
            port["containerPort"]
            for _, pod in pod_specs(rendered.manifests)
            for container in pod["containers"]
            for port in container.get("ports", [])
        ]
        assert set(reached) == set(served)
        budgets = [one["spec"] for one in rendered.manifests if one["kind"] == "PodDisruptionBudget"]
        assert budgets
        assert all(budget["maxUnavailable"] == 1 for budget in budgets)


def test_a_group_without_values_of_its_own_is_scaled_as_the_others_are() -> None:
    defaults = {"autoscaling": {"enabled": True}}
    [rendered] = render({**URLS, "workerDefaults": defaults, "workers": {"cpu": None, "gpu": {}}})
    scaled = rendered.named("ScaledObject", "docmill-worker-gpu")
    [trigger] = scaled["spec"]["triggers"]
    assert rendered.named("TriggerAuthentication", trigger["authenticationRef"]["name"])


WRONG: Mapping[str, tuple[chart.Values, str]] = {
    "a value that does not exist": ({"workers": {"cpu": {"replica": 2}}}, "'replica' not allowed"),
    "a device that does not exist": ({"workers": {"cpu": {"device": "gpu"}}}, "'gpu' does not match"),
    "a lane that is no name": ({"workers": {"cpu": {"lanes": ["x'"]}}}, "does not match pattern"),
    "a password among the settings": ({"settings": {"DOCMILL_OPENAI_API_KEY": "x"}}, "DOCMILL_OPENAI_API_KEY"),
    "a time for retention that is none": ({"collection": {"retention": {"duration": "1d"}}}, "does not match"),
    "no time to drain": ({"drainSeconds": 0}, "/drainSeconds"),
    "a page without a token": ({"web": {"enabled": True}}, "set web.existingSecret"),
    "a Batch API without models": ({"batch": {"enabled": True}}, "set batch.models"),
    "no database": ({"connection": {"databaseUrl": "", "redisUrl": ""}}, "set connection.existingSecret"),
}


def test_wrong_values_are_refused_and_named() -> None:
    answers = dict(zip(WRONG, render(*({**URLS, **values} for values, _ in WRONG.values())), strict=True))
    for name, (_, said) in WRONG.items():
        assert said in (answers[name].error or ""), name
