"""The manifest and the Containerfile: valid, and true of this program's flags and paths."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from serving import ROOT, Server, cli, model_file, until

from portable.cli import app
from portable.flags import Listening
from portable.server import static
from portable.server.app import routes
from portable.server.config import ServerConfig
from portable.server.guard import PUBLIC

CONTAINERFILE = (ROOT / "deploy/Containerfile").read_text(encoding="utf-8")
MANIFEST = (ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8")
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST))
(PODS,) = (o for o in OBJECTS if o["kind"] == "StatefulSet")
TEMPLATE: dict[str, Any] = PODS["spec"]["template"]
POD: dict[str, Any] = TEMPLATE["spec"]
(SERVER,) = POD["containers"]
PULL, *_ = POD["initContainers"]


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What `portable` reads in them. Raises NoSuchOption and the like."""
    name, *rest = arguments
    command = typer.main.get_command(app)
    found: dict[str, Any] = command.commands[name].make_context(name, rest).params  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda o: f"{o['kind']} {o['metadata']['name']}")
def test_it_is_what_kubernetes_takes(thing: dict[str, Any]) -> None:
    kubernetes_validate.validate(thing, "1.34", strict=True)


def test_the_schema_would_find_a_mistake() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**OBJECTS[0], "specs": {}}, "1.34", strict=True)


def test_commands_are_those_of_this_program() -> None:
    served, pulled = parsed(SERVER["args"]), parsed(PULL["args"])
    assert pulled["model"] == served["model"]
    port = SERVER["ports"][0]
    assert served["port"] == port["containerPort"] and port["name"] == "http"
    assert served["offline"] and SERVER["image"] == PULL["image"]
    with pytest.raises(Exception, match="No such option"):
        parsed(["serve", "--no-such-flag"])


def test_variables_are_read() -> None:
    names = {variable["name"] for variable in SERVER["env"]}
    assert names == {"PORTABLE_API_KEY"}
    assert "PORTABLE_API_KEY" in str(Listening.__annotations__["api_key"])
    ServerConfig(host="0.0.0.0", api_keys=("k",))  # with it, that address may be listened on
    secret = SERVER["env"][0]["valueFrom"]["secretKeyRef"]
    assert f"secret generic {secret['name']} --from-literal={secret['key']}=" in MANIFEST


def test_probes_ask_for_what_answers_without_a_key() -> None:
    known = {route.path for route in routes()}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = SERVER[name]["httpGet"]
        assert asked["port"] == "http" and asked["path"] in known
        assert asked["path"] in PUBLIC | static.PATHS
    # Health is 503 while a model loads: whoever ends the server for that ends it for ever.
    assert SERVER["livenessProbe"]["httpGet"]["path"] not in PUBLIC


def test_the_server_answers_the_probes() -> None:
    (scaler,) = (o["spec"] for o in OBJECTS if o["kind"] == "HorizontalPodAutoscaler")
    name, model, *flags = SERVER["args"]
    at = flags.index("--port")
    flags[at : at + 2] = ["--port", "0", "--context", "512", "--threads", "1"]
    assert (name, model) == ("serve", parsed(SERVER["args"])["model"])
    with cli(str(model_file()), *flags, env={"PORTABLE_API_KEY": "k"}) as server:
        port = until(lambda: listening(server), 60)
        base = f"http://127.0.0.1:{port}"
        assert server.client.get(base + SERVER["livenessProbe"]["httpGet"]["path"]).is_success
        ready = base + SERVER["readinessProbe"]["httpGet"]["path"]
        until(lambda: server.client.get(ready).is_success, 60)
        assert server.client.get(base + "/metrics").status_code == 401
        told = server.client.get(base + "/metrics", headers={"Authorization": "Bearer k"}).text
        assert scaler["metrics"][0]["pods"]["metric"]["name"] + "{" in told


def listening(server: Server) -> int | None:
    """The port, from a log of JSON."""
    found = re.search(r"Uvicorn running on http://0\.0\.0\.0:(\d+)", server.log)
    return int(found[1]) if found else None


def test_answers_may_come_to_their_end() -> None:
    pause = SERVER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > pause + ServerConfig().drain_seconds + 2


def test_parts_find_each_other() -> None:
    labels = TEMPLATE["metadata"]["labels"]
    services = {o["metadata"]["name"]: o["spec"] for o in OBJECTS if o["kind"] == "Service"}
    assert all(service["selector"] == labels for service in services.values())
    assert PODS["spec"]["selector"]["matchLabels"] == labels
    assert services[PODS["spec"]["serviceName"]]["clusterIP"] == "None"
    volumes = {volume["name"] for volume in POD["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in PODS["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in SERVER["volumeMounts"]} == volumes


def test_it_scales_the_pods() -> None:
    (scaler,) = (o["spec"] for o in OBJECTS if o["kind"] == "HorizontalPodAutoscaler")
    target = scaler["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (PODS["kind"], PODS["metadata"]["name"])
    assert "replicas" not in PODS["spec"]  # it would be set back at each `kubectl apply`


def test_the_image_holds_what_the_manifest_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert SERVER["image"] == f"portable:{project['version']}"
    versions = re.findall(r"python:3\.(\d+)-", CONTAINERFILE)
    least = int(project["requires-python"].removeprefix(">=3."))
    assert len(versions) == 2 and all(int(version) >= least for version in versions)
    copied = set(re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.M))
    assert all((ROOT / name).exists() for line in copied for name in line.split())
    user = re.search(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.M)
    security = POD["securityContext"]
    assert user and [int(part) for part in user.groups()] == [
        security["runAsUser"],
        security["fsGroup"],
    ]
    home = re.search(r"^ENV .*PORTABLE_HOME=(\S+)", CONTAINERFILE, re.M)
    assert home and home[1].startswith(SERVER["volumeMounts"][0]["mountPath"] + "/")
    entry = re.search(r"^ENTRYPOINT (.*)$", CONTAINERFILE, re.M)
    assert entry and json.loads(entry[1]) == list(project["scripts"])
    command = re.search(r"^CMD (.*)$", CONTAINERFILE, re.M)
    assert command and parsed(json.loads(command[1]))["host"] == "0.0.0.0"
