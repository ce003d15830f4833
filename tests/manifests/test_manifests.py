"""The manifests: every overlay builds and is valid, has no secrets, runs nothing as root, stays in its namespace."""

import copy
import functools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipeline import main
from tests.manifests.kfp_objects import built
from tests.scripts import import_script

ROOT = Path(__file__).resolve().parent.parent.parent
MANIFESTS = ROOT / "manifests"
BUILDS = ["base", *sorted(f"overlays/{path.name}" for path in (MANIFESTS / "overlays").iterdir())]
COMPONENTS = sorted(f"components/{path.name}" for path in (MANIFESTS / "components").iterdir())
# They patch objects of KFP itself: test_kubeflow.py
OF_KUBEFLOW = {"components/retry-always", "components/ui-object-store"}
EVERYTHING = [*BUILDS, "base + components"]

CLUSTER_SCOPED = {
    "Namespace",
    "PriorityClass",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "NodePool",
    "EC2NodeClass",
    "ResourceFlavor",
    "ClusterQueue",
}
# Kinds that Kubernetes' own schemas do not know, and the fields of their spec that we may use.
CUSTOM = {
    ("pipelines.kubeflow.org/v2beta1", "Pipeline"): {"displayName", "description", "tags"},
    ("pipelines.kubeflow.org/v2beta1", "PipelineVersion"): {
        "displayName",
        "description",
        "codeSourceURL",
        "pipelineName",
        "versionName",
        "pipelineSpec",
        "platformSpec",
        "pipelineSpecURI",
        "tags",
    },
    ("external-secrets.io/v1", "ExternalSecret"): {"refreshInterval", "secretStoreRef", "target", "data"},
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): {"nodeLabels", "nodeTaints", "tolerations", "topologyName"},
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): {
        "resourceGroups",
        "cohortName",
        "queueingStrategy",
        "namespaceSelector",
        "flavorFungibility",
        "preemption",
        "stopPolicy",
    },
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): {"clusterQueue", "stopPolicy", "fairSharing"},
    ("karpenter.sh/v1", "NodePool"): {"template", "disruption", "limits", "weight"},
    ("karpenter.k8s.aws/v1", "EC2NodeClass"): {
        "role",
        "amiSelectorTerms",
        "subnetSelectorTerms",
        "securityGroupSelectorTerms",
        "instanceStorePolicy",
        "blockDeviceMappings",
        "metadataOptions",
    },
}
# Pods that others start: those of a run, and those of Kubeflow and the cluster that a run talks to.
FOREIGN_PODS = [
    {"pipelines.kubeflow.org/v2_component": "true"},
    {"rloop.dev/training-node": "true"},  # components/shared/training/train_job.py
    {"app": "ml-pipeline"},
    {"app": "ml-pipeline-ui"},
    {"component": "metadata-grpc-server"},
    {"app": "seaweedfs"},
    {"k8s-app": "kube-dns"},
]
NAMESPACES = [{"kubernetes.io/metadata.name": name} for name in ("kubeflow", "kube-system", "rloop")]
POOLS = {"cpu", "gpu-training", "gpu-inference"}
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


@pytest.fixture(scope="module")
def with_components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("with-components")
    kustomization = {
        "resources": [os.path.relpath(MANIFESTS / "base", folder)],
        "components": [
            os.path.relpath(MANIFESTS / component, folder) for component in COMPONENTS if component not in OF_KUBEFLOW
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


@pytest.fixture(params=EVERYTHING)
def build(request: pytest.FixtureRequest, with_components: Path) -> str:
    return str(request.param)


@pytest.fixture
def objects(build: str, with_components: Path) -> list[dict[str, Any]]:
    folder = MANIFESTS / build if build in BUILDS else with_components
    return [document for document in yaml.safe_load_all(built(folder)) if document]


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yields every mapping in a document."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def pod_templates(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet", "DaemonSet", "Job")
    assert not [o for o in objects if o["kind"] in ("Pod", "CronJob", "ReplicaSet")], "teach this test the new kind"
    return [o["spec"]["template"] for o in objects if o["kind"] in kinds]


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [o for o in objects if o["kind"] == kind]


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_is_valid_for_kubernetes(objects: list[dict[str, Any]], build: str, version: str) -> None:
    assert objects
    for o in objects:
        assert o["metadata"]["name"]
        if (o["apiVersion"], o["kind"]) in CUSTOM:
            assert set(o["spec"]) <= CUSTOM[o["apiVersion"], o["kind"]]
        elif not (version == "1.33" and o["kind"].startswith("MutatingAdmissionPolicy")):  # v1 came with 1.36
            kubernetes_validate.validate(o, version, strict=True)


def test_strict_validation_sees_a_wrong_field(with_components: Path) -> None:
    job = next(o for o in yaml.safe_load_all(built(with_components)) if o["kind"] == "Job")
    job["spec"]["template"]["spec"]["containers"][0]["img"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.37", strict=True)


def test_nothing_is_defined_twice(objects: list[dict[str, Any]]) -> None:
    names = [(o["apiVersion"], o["kind"], o["metadata"]["name"]) for o in objects]
    assert len(names) == len(set(names))


def test_everything_is_in_the_namespace(objects: list[dict[str, Any]], build: str) -> None:
    namespace = "kubeflow" if build == "overlays/standalone" else "rloop"
    for o in objects:
        expected = None if o["kind"] in CLUSTER_SCOPED else namespace
        assert o["metadata"].get("namespace") == expected, f"{o['kind']} {o['metadata']['name']}"
        for subject in o.get("subjects", []):
            assert subject["namespace"] == namespace


def test_no_secret_is_in_any_build(objects: list[dict[str, Any]]) -> None:
    assert not of_kind(objects, "Secret")
    for mapping in walk(objects):
        name = mapping.get("name")
        if isinstance(name, str) and re.search(r"KEY|TOKEN|PASSWORD|SECRET", name):
            assert "value" not in mapping and "valueFrom" in mapping, f"{name} has its value in the file"


def test_no_secret_is_in_any_file() -> None:
    patterns = r"AKIA[0-9A-Z]{12}|hf_[A-Za-z0-9]{10}|gh[pousr]_[A-Za-z0-9]{10}|BEGIN [A-Z ]*PRIVATE KEY|minio123"
    for file in MANIFESTS.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            assert not re.search(patterns, file.read_text()), file
    for secret in yaml.safe_load_all((MANIFESTS / "base" / "secrets.example.yaml").read_text()):
        assert set(secret["stringData"].values()) == {"PLACEHOLDER"}


def test_every_image_has_a_fixed_tag(objects: list[dict[str, Any]]) -> None:
    for mapping in walk(objects):
        image = mapping.get("image")
        if isinstance(image, str):
            name, _, tag = image.rpartition(":")
            assert name and "/" not in tag and re.search(r"\d", tag), f"{image} has no fixed tag"
        assert "latest" not in str(mapping.get("alias", ""))  # a node's image


def restricted_violations(pod: dict[str, Any]) -> list[str]:
    """Returns what the Pod Security Standard "restricted" would reject in a pod's spec."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    harmless = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found += [f"volume {v['name']}" for v in pod.get("volumes", []) if set(v) - {"name"} - harmless]
    shared = pod.get("securityContext", {})
    if shared.get("sysctls"):
        found.append("sysctls")
    for container in pod.get("initContainers", []) + pod["containers"]:
        own = container.get("securityContext", {})
        both = {**shared, **own}
        capabilities = own.get("capabilities", {})
        wrong = {
            "privileged": own.get("privileged", False),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "runAsNonRoot": both.get("runAsNonRoot") is not True,
            "runAsUser": both.get("runAsUser") == 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
            "capabilities": "ALL" not in capabilities.get("drop", [])
            or bool(set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}),
            "procMount": own.get("procMount", "Default") != "Default",
            "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
        }
        found += [f"{container['name']}: {key}" for key, is_wrong in wrong.items() if is_wrong]
    return found


def test_pods_meet_the_restricted_profile_and_have_limits(objects: list[dict[str, Any]]) -> None:
    for template in pod_templates(objects):
        pod = template["spec"]
        assert not restricted_violations(pod)
        for container in pod.get("initContainers", []) + pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert isinstance(pod["securityContext"]["runAsUser"], int)  # the images' own user may be root


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        (("hostNetwork",), True, "hostNetwork"),
        (("volumes", 0), {"name": "node", "hostPath": {"path": "/"}}, "volume node"),
        (("securityContext", "runAsNonRoot"), None, "runAsNonRoot"),
        (("securityContext", "runAsUser"), 0, "runAsUser"),
        (("securityContext", "seccompProfile"), {}, "seccompProfile"),
        (("containers", 0, "securityContext", "privileged"), True, "privileged"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), None, "allowPrivilegeEscalation"),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}, "capabilities"),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]}, "capabilities"),
    ],
)
def test_the_restricted_check_sees(with_components: Path, path: tuple[Any, ...], value: Any, found: str) -> None:
    job = next(o for o in yaml.safe_load_all(built(with_components)) if o["kind"] == "Job")
    pod = copy.deepcopy(job["spec"]["template"]["spec"])
    *way, last = path
    functools.reduce(lambda node, key: node[key], way, pod)[last] = value
    assert any(found in violation for violation in restricted_violations(pod))


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Returns whether a label selector matches these labels; call once for each of several values."""
    plain = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    assert all(e["operator"] == "In" for e in selector.get("matchExpressions", []))
    return plain and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))


def single_choices(selector: dict[str, Any]) -> list[dict[str, Any]]:
    """Splits a selector `key In [a, b]` into one selector for a and one for b: both must match something."""
    choices = [dict(selector, matchExpressions=[])]
    for e in selector.get("matchExpressions", []):
        choices = [
            dict(choice, matchExpressions=[*choice["matchExpressions"], {**e, "values": [value]}])
            for choice in choices
            for value in e["values"]
        ]
    return choices


def test_every_selector_finds_pods(objects: list[dict[str, Any]]) -> None:
    ours = [template["metadata"]["labels"] for template in pod_templates(objects)]
    for o in of_kind(objects, "NetworkPolicy"):
        peers = [
            peer
            for direction, side in (("ingress", "from"), ("egress", "to"))
            for rule in o["spec"].get(direction, [])
            for peer in rule[side]
        ]
        for key, known in (("podSelector", ours + FOREIGN_PODS), ("namespaceSelector", NAMESPACES)):
            for selector in [x[key] for x in [o["spec"], *peers] if x.get(key)]:
                for choice in single_choices(selector):
                    assert any(selects(choice, labels) for labels in known), f"{o['metadata']['name']}: {choice}"
    for o in of_kind(objects, "Service"):
        assert any(selects({"matchLabels": o["spec"]["selector"]}, labels) for labels in ours)
    for o in of_kind(objects, "StatefulSet"):
        assert selects(o["spec"]["selector"], o["spec"]["template"]["metadata"]["labels"])
        assert o["spec"]["serviceName"] in [service["metadata"]["name"] for service in of_kind(objects, "Service")]


def test_every_rule_names_ports_and_everything_else_is_denied(objects: list[dict[str, Any]], build: str) -> None:
    policies = {o["metadata"]["name"]: o["spec"] for o in of_kind(objects, "NetworkPolicy")}
    if build == "overlays/gitops":
        return
    deny = policies["default-deny"]
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"} and "egress" not in deny and "ingress" not in deny
    for spec in policies.values():
        assert all(rule["ports"] for rule in spec.get("ingress", []) + spec.get("egress", []))


def test_the_role_is_small(objects: list[dict[str, Any]]) -> None:
    for role in of_kind(objects, "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if set(rule["resources"]) & {"secrets", "configmaps"}:
                assert rule["resourceNames"] and rule["verbs"] == ["get"]
    assert not of_kind(objects, "ClusterRole") + of_kind(objects, "ClusterRoleBinding")


def test_the_launcher_can_read_what_it_is_pointed_at(objects: list[dict[str, Any]]) -> None:
    for o in of_kind(objects, "ConfigMap"):
        if o["metadata"]["name"] != "kfp-launcher":
            continue
        scheme = o["data"]["defaultPipelineRoot"].split("://")[0]
        default = yaml.safe_load(o["data"]["providers"])[scheme]["default"]
        assert "://" not in default.get("endpoint", "")
        credentials = default["credentials"]
        if not credentials["fromEnv"]:
            (role,) = of_kind(objects, "Role")
            readable = [n for rule in role["rules"] if "secrets" in rule["resources"] for n in rule["resourceNames"]]
            assert credentials["secretRef"]["secretName"] in readable
            assert set(credentials["secretRef"]) == {"secretName", "accessKeyKey", "secretKeyKey"}


def test_bucket_and_pipeline_root_agree(objects: list[dict[str, Any]], build: str) -> None:
    maps = {o["metadata"]["name"]: o["data"] for o in of_kind(objects, "ConfigMap")}
    if build == "base + components" or "rloop-bucket" not in maps:
        return
    assert maps["kfp-launcher"]["defaultPipelineRoot"].startswith(f"s3://{maps['rloop-bucket']['BUCKET']}/")
    provider = yaml.safe_load(maps["kfp-launcher"]["providers"])["s3"]["default"]
    endpoint = maps["rloop-bucket"].get("AWS_ENDPOINT_URL", "https://s3.amazonaws.com")
    assert endpoint.split("://")[1] == provider["endpoint"]


def test_the_lifecycle_spares_artifacts() -> None:
    amazon = json.loads((MANIFESTS / "components/bucket/lifecycle.json").read_text())["Rules"]
    expiring = [rule["Filter"]["Prefix"] for rule in amazon if "Expiration" in rule]
    google = json.loads((MANIFESTS / "overlays/gke/lifecycle.json").read_text())["rule"]
    deleting = [rule["condition"]["matchesPrefix"] for rule in google if rule["action"]["type"] == "Delete"]
    assert expiring == ["progress/"] and deleting == [["progress/"]]


def test_priorities_rise_from_evaluation_to_training(with_components: Path) -> None:
    documents = list(yaml.safe_load_all(built(with_components)))
    value = {o["metadata"]["name"]: o["value"] for o in of_kind(documents, "PriorityClass")}
    assert value["rloop-evaluation"] < value["rloop-cpu"] < value["rloop-training"]
    (policy,) = of_kind(documents, "MutatingAdmissionPolicy")
    assert all(f"'{name}'" in str(policy["spec"]["variables"]) for name in value)


def test_the_queue_has_quota_for_what_the_pods_of_each_pool_request(with_components: Path) -> None:
    documents = list(yaml.safe_load_all(built(with_components)))
    flavors = {o["metadata"]["name"]: o["spec"] for o in of_kind(documents, "ResourceFlavor")}
    assert {flavor["nodeLabels"]["rloop.dev/pool"] for flavor in flavors.values()} == POOLS
    for flavor in flavors.values():
        assert flavor.get("nodeTaints", []) == ([TAINT] if flavor["nodeLabels"]["rloop.dev/pool"] != "cpu" else [])
    ((cluster_queue,), (queue,)) = of_kind(documents, "ClusterQueue"), of_kind(documents, "LocalQueue")
    assert queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]
    assert cluster_queue["spec"]["namespaceSelector"]["matchLabels"] in NAMESPACES
    (group,) = cluster_queue["spec"]["resourceGroups"]
    assert {flavor["name"] for flavor in group["flavors"]} == set(flavors)
    for flavor in group["flavors"]:  # of all resources, in their order, says the webhook
        assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]
    gpus = sum(flavor["resources"][2]["nominalQuota"] for flavor in group["flavors"])
    (quota,) = of_kind(documents, "ResourceQuota")
    assert group["coveredResources"][2] == "nvidia.com/gpu"
    assert gpus <= int(quota["spec"]["hard"]["requests.nvidia.com/gpu"]), "the namespace would reject admitted pods"


def test_node_pools_have_one_name_everywhere() -> None:
    for overlay in ("gke", "eks-karpenter", "on-premise"):
        text = "\n".join(file.read_text() for file in (MANIFESTS / "overlays" / overlay).iterdir())
        assert set(re.findall(r"rloop\.dev/pool[:=]\s*([\w-]+)", text)) == POOLS, overlay
        assert re.search(r"nvidia\.com/gpu=present:NoSchedule|key: nvidia\.com/gpu, value: present", text), overlay
    for o in of_kind(list(yaml.safe_load_all(built(MANIFESTS / "overlays/eks-karpenter"))), "NodePool"):
        template = o["spec"]["template"]
        pool = template["metadata"]["labels"]["rloop.dev/pool"]
        assert template["spec"].get("taints", []) == ([TAINT] if pool.startswith("gpu") else [])
        classes = of_kind(list(yaml.safe_load_all(built(MANIFESTS / "overlays/eks-karpenter"))), "EC2NodeClass")
        assert template["spec"]["nodeClassRef"]["name"] in [c["metadata"]["name"] for c in classes]


def _generate() -> Any:
    return import_script(MANIFESTS / "overlays/gitops/generate.py")


def test_a_compiled_pipeline_becomes_a_pipeline_version(tmp_path: Path) -> None:
    compiled = tmp_path / "rloop.yaml"
    arguments = [
        "compile",
        "--recipe",
        str(ROOT / "recipes/laptop.yaml"),
        "--iterations",
        "1",
        "--output",
        str(compiled),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    text = compiled.read_text()
    pipeline, version = _generate().manifests(text)
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "rloop"
    assert re.fullmatch(r"rloop-[0-9a-f]{12}", version["metadata"]["name"])
    json_format.ParseDict(version["spec"]["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(version["spec"].get("platformSpec", {}), pipeline_spec_pb2.PlatformSpec())
    assert _generate().manifests(text) == [pipeline, version]  # the same pipeline, the same version
    assert _generate().manifests(text + "# changed\n")[1]["metadata"]["name"] != version["metadata"]["name"]


def test_the_placeholder_is_a_pipeline() -> None:
    (version,) = of_kind(list(yaml.safe_load_all(built(MANIFESTS / "overlays/gitops"))), "PipelineVersion")
    json_format.ParseDict(version["spec"]["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())


def test_the_readme_names_every_overlay_and_component_that_is_there() -> None:
    text = (MANIFESTS / "README.md").read_text()
    assert set(re.findall(r"overlays/([a-z0-9-]+)", text)) == {Path(build).name for build in BUILDS[1:]}
    assert set(re.findall(r"components/([a-z0-9-]+)", text)) == {Path(component).name for component in COMPONENTS}
