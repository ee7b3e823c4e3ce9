"""The best server for Kubernetes: a Deployment with its Service, and values of vLLM's production stack."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_autotune.reporting.command import PORT, Word
from pytest_autotune.reporting.recipe import MOUNTED_MODEL, rendered
from pytest_autotune.reporting.yaml_text import yaml_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.reporting.recipe import Recipe

_PROBED_EVERY_S = 10


def kubernetes_manifest(recipe: Recipe) -> str:
    """Return a Deployment of one replica and a Service in front of it."""
    labels = {"app.kubernetes.io/name": recipe.name}
    container: dict[str, Any] = {
        "name": "server",
        "image": recipe.image,
        "command": list(recipe.container.entry),
        "args": _expanded(recipe.arguments()),
        "env": _environment(recipe),
        "ports": [{"name": "http", "containerPort": PORT}],
        **({"resources": {"limits": {"nvidia.com/gpu": str(recipe.gpus)}}} if recipe.gpus else {}),
        "startupProbe": _startup(recipe),
        "readinessProbe": _probe(recipe),
        "livenessProbe": _probe(recipe),
        "volumeMounts": [*_shared_memory_mounts(), *_model_mounts(recipe), *_cache_mounts(recipe)],
    }
    pod = {
        # A Service that is named vllm would set VLLM_PORT, which vLLM reads as a number.
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [*_shared_memory(), *_model_volumes(recipe), *_cache_volumes(recipe)],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": recipe.name, "labels": labels},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # a rolling update would need the GPUs twice
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": recipe.name, "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]},
    }
    return yaml_text(_remarks(recipe), deployment, service)


def helm_values(recipe: Recipe) -> str:
    """Return values for the chart ``vllm-stack``, which adds model, host and port itself.

    The chart turns prefix caching off unless it is told; what the settings say comes after that, and wins.
    """
    settings = [Word("literal", "--served-model-name"), Word("literal", recipe.served_as), *recipe.settings]
    model = {
        "name": recipe.name,
        "repository": recipe.container.repository,
        "tag": recipe.container.tag,
        "modelURL": MOUNTED_MODEL if recipe.local else _doubled(recipe.model),
        "replicaCount": 1,
        "requestCPU": 4,
        "requestMemory": "16Gi",
        "requestGPU": recipe.gpus,
        "vllmConfig": {
            "enablePrefixCaching": Word("literal", "--no-enable-prefix-caching") not in settings,
            "extraArgs": _expanded(settings),
        },
        "env": _environment(recipe),
        "extraVolumes": [*_shared_memory(), *_model_volumes(recipe)],
        "extraVolumeMounts": [*_shared_memory_mounts(), *_model_mounts(recipe)],
    }
    probe = {**_startup(recipe), "initialDelaySeconds": 0, "httpGet": {"path": recipe.health, "port": PORT}}
    values = {
        "servingEngineSpec": {
            **({} if recipe.gpus else {"runtimeClassName": ""}),
            "containerPort": PORT,
            "startupProbe": probe,
            "modelSpec": [model],
        }
    }
    requests = "requestCPU and requestMemory, which the chart must have, are not measured: fit them to your nodes."
    return yaml_text([*_remarks(recipe), requests], values)


def _remarks(recipe: Recipe) -> list[str]:
    remarks = list(recipe.remarks)
    if names := _secrets(recipe):
        literals = " ".join(f'--from-literal={name}="${name}"' for name in names)
        may = "" if recipe.secrets or recipe.asked else "For a gated model: "
        remarks.append(f"{may}kubectl create secret generic {_secret(recipe)} {literals}")
    if recipe.local:
        remarks.append(f"The model was {recipe.model}: its files must be in the claim {_claim(recipe)}.")
    return remarks


def _environment(recipe: Recipe) -> list[dict[str, Any]]:
    """Return the variables; only the token for a gated model may be missing, unless the suite has one."""
    secrets = [
        {
            "name": name,
            "valueFrom": {
                "secretKeyRef": {
                    "name": _secret(recipe),
                    "key": name,
                    **({} if name in (*recipe.secrets, *recipe.asked) else {"optional": True}),
                }
            },
        }
        for name in _secrets(recipe)
    ]
    return [*secrets, *({"name": name, "value": _doubled(value)} for name, value in recipe.env.items())]


def _startup(recipe: Recipe) -> dict[str, Any]:
    failures = max(1, math.ceil(recipe.start_s / _PROBED_EVERY_S))
    return {**_probe(recipe), "periodSeconds": _PROBED_EVERY_S, "failureThreshold": failures}


def _probe(recipe: Recipe) -> dict[str, Any]:
    return {"httpGet": {"path": recipe.health, "port": "http"}, "timeoutSeconds": 5}


def _expanded(words: Sequence[Word]) -> list[str]:
    return rendered(words, _doubled, lambda name: f"$({name})")


def _doubled(text: str) -> str:
    """Keep Kubernetes from filling in variables."""
    return text.replace("$", "$$")


def _secrets(recipe: Recipe) -> list[str]:
    """Return the variables that a Secret holds: settings refer to them by the container's environment, too."""
    return list(dict.fromkeys([*recipe.tokens, *recipe.asked]))


def _secret(recipe: Recipe) -> str:
    return f"{recipe.name}-secrets"


def _claim(recipe: Recipe) -> str:
    return f"{recipe.name}-model"


def _shared_memory() -> list[dict[str, Any]]:
    """Return what the processes of one server talk through; a pod has 64 MiB of it otherwise."""
    return [{"name": "dshm", "emptyDir": {"medium": "Memory"}}]


def _shared_memory_mounts() -> list[dict[str, Any]]:
    return [{"name": "dshm", "mountPath": "/dev/shm"}]  # noqa: S108 - of the container


def _model_volumes(recipe: Recipe) -> list[dict[str, Any]]:
    claim = {"claimName": _claim(recipe), "readOnly": True}
    return [{"name": "model", "persistentVolumeClaim": claim}] if recipe.local else []


def _model_mounts(recipe: Recipe) -> list[dict[str, Any]]:
    return [{"name": "model", "mountPath": MOUNTED_MODEL, "readOnly": True}] if recipe.local else []


def _cache_volumes(recipe: Recipe) -> list[dict[str, Any]]:
    return [] if recipe.local else [{"name": "cache", "emptyDir": {}}]


def _cache_mounts(recipe: Recipe) -> list[dict[str, Any]]:
    return [] if recipe.local else [{"name": "cache", "mountPath": recipe.container.cache}]
