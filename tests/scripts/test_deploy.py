"""Deploying: the endpoint against moto's SageMaker, the shell scripts with stub programs, the image, the client."""

import contextlib
import hashlib
import http.server
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from moto import mock_aws
from moto.core.responses import ActionResult
from moto.sagemaker.models import SageMakerModelBackend, sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse

from deploy import client, create_endpoint, healthcheck
from t5_pegasus import AutoTitle, export
from t5_pegasus.errors import OptionError, PegasusError
from t5_pegasus.locations import ROOT

BIN = Path(sys.executable).parent
DEPLOY = ROOT / "deploy"

# create_endpoint.py

ACCOUNT, REGION = "123456789012", "us-west-2"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/t5-pegasus"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/pegasus"


class Cloud:
    """moto's AWS, with what it lacks: endpoints that take their time, that fail, and that can be moved.

    Attributes:
        calls: (operation, arguments) of every change asked for, in order.
        refusals: codes of the errors with which operations are refused.
        fate: what becomes of an endpoint that is being made or moved, once someone has waited for it.
    """

    def __init__(self, monkeypatch):
        self.calls, self.fate, self._moves, self._now = [], "InService", {}, 0.0
        for name in ("sagemaker", "ecr", "s3", "application-autoscaling", "iam"):
            setattr(self, name.replace("-", "_"), boto3.client(name, region_name=REGION))
        create, delete = SageMakerModelBackend.create_endpoint, SageMakerModelBackend.delete_endpoint

        def slow_create(backend, **arguments):
            endpoint = create(backend, **arguments)
            endpoint.endpoint_status = "Creating"
            return endpoint

        def update(response):
            name, moved_to = (response._get_param(key) for key in ("EndpointName", "EndpointConfigName"))
            self.sagemaker.describe_endpoint_config(EndpointConfigName=moved_to)
            self.endpoints[name].endpoint_status, self._moves[name] = "Updating", moved_to
            return ActionResult({"EndpointArn": self.endpoints[name].arn})

        def slow_delete(backend, endpoint_name):
            backend.describe_endpoint(endpoint_name)
            backend.endpoints[endpoint_name].endpoint_status = "Deleting"

        def sleep(seconds):
            self._now += seconds
            everywhere = sagemaker_backends[ACCOUNT].values()
            for backend, name in [(region, name) for region in everywhere for name in region.endpoints]:
                endpoint = backend.endpoints[name]
                if endpoint.endpoint_status == "Deleting":
                    delete(backend, name)
                elif endpoint.endpoint_status in ("Creating", "Updating") and self.fate != "never":
                    good = self.fate == "InService"
                    endpoint.failure_reason = None if good else "the container does not answer /ping"
                    moved_to = self._moves.pop(name, None)
                    if moved_to is None:
                        endpoint.endpoint_status = self.fate
                    else:  # an endpoint that cannot be moved stays in service as it was
                        endpoint.endpoint_status = "InService"
                        endpoint.endpoint_config_name = moved_to if good else endpoint.endpoint_config_name

        def record(params, model, **_):
            if not model.name.startswith(("Describe", "List", "Get", "Head")):
                self.calls.append((model.name, params))

        monkeypatch.setattr(SageMakerModelBackend, "create_endpoint", slow_create)
        monkeypatch.setattr(SageMakerModelBackend, "delete_endpoint", slow_delete)
        monkeypatch.setattr(SageMakerResponse, "update_endpoint", update, raising=False)
        clock = types.SimpleNamespace(sleep=sleep, monotonic=lambda: self._now)
        monkeypatch.setattr(create_endpoint, "time", clock)
        session = boto3.Session

        def recording(**arguments):
            made = session(**arguments)
            made.events.register("provide-client-params.*.*", record)
            return made

        monkeypatch.setattr(boto3, "Session", recording)
        self.refusals = {}
        call = BaseClient._make_api_call

        def answer(client, operation, arguments):
            if operation in self.refusals:
                raise ClientError({"Error": {"Code": self.refusals[operation], "Message": "no"}}, operation)
            return call(client, operation, arguments)

        monkeypatch.setattr(BaseClient, "_make_api_call", answer)

    @property
    def endpoints(self):
        return sagemaker_backends[ACCOUNT][REGION].endpoints

    def push(self, tag, contents):
        """Put an image under a tag, which it is taken from if another has it, and return its digest."""
        media_type = "application/vnd.docker.distribution.manifest.v2+json"
        contents_digest = f"sha256:{hashlib.sha256(contents).hexdigest()}"
        manifest = {"schemaVersion": 2, "mediaType": media_type, "config": {"digest": contents_digest}}
        image = self.ecr.put_image(repositoryName="t5-pegasus", imageTag=tag, imageManifest=json.dumps(manifest))
        return image["image"]["imageId"]["imageDigest"]

    def models(self):
        return {model["ModelName"] for model in self.sagemaker.list_models()["Models"]}

    def configurations(self):
        found = self.sagemaker.list_endpoint_configs()["EndpointConfigs"]
        return {configuration["EndpointConfigName"] for configuration in found}

    def running(self, name="pegasus"):
        """Return the endpoint's status, its configuration and the model's container."""
        endpoint = self.sagemaker.describe_endpoint(EndpointName=name)
        configuration = self.sagemaker.describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
        (variant,) = configuration["ProductionVariants"]
        model = self.sagemaker.describe_model(ModelName=variant["ModelName"])
        del configuration["ResponseMetadata"]
        return endpoint["EndpointStatus"], configuration, model

    def changes(self):
        """Return the names of the operations asked for since this was last called."""
        names = [name for name, _ in self.calls]
        self.calls.clear()
        return names


@pytest.fixture
def cloud(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        cloud = Cloud(monkeypatch)
        cloud.ecr.create_repository(repositoryName="t5-pegasus")
        cloud.push("latest", b"first")
        cloud.iam.create_role(RoleName="pegasus", AssumeRolePolicyDocument="{}")
        location = {"LocationConstraint": REGION}
        cloud.s3.create_bucket(Bucket="models", CreateBucketConfiguration=location)
        cloud.s3.put_object(Bucket="models", Key="base/model.tar.gz", Body=b"first")
        yield cloud


def deploy(*flags):
    return create_endpoint.main(["--endpoint_ecr_image_path", IMAGE, "--role", ROLE, *map(str, flags)])


def test_an_endpoint_is_made_and_its_progress_told(cloud, capsys):
    digest = cloud.push("v1", b"another")
    flags = ["--endpoint_ecr_image_path", f"{IMAGE}:v1", "--endpoint_name", "pegasus", "--role", "pegasus"]
    assert create_endpoint.main([*flags, "--instance_type", "ml.g4dn.8xlarge", "--serve_flags", "--num_beams 4"]) == 0
    status, configuration, model = cloud.running()
    (variant,) = configuration["ProductionVariants"]
    assert status == "InService"
    assert model["ExecutionRoleArn"] == ROLE
    assert model["PrimaryContainer"] == {"Image": f"{IMAGE}@{digest}", "Environment": {"SERVE_FLAGS": "--num_beams 4"}}
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.g4dn.8xlarge", 1)
    assert not configuration.get("DataCaptureConfig")
    printed = capsys.readouterr()
    name = configuration["EndpointConfigName"]
    told = [
        f"made {variant['ModelName']}",
        f"made {name}",
        "pegasus: Creating after 0 s",
        "pegasus: InService after 10 s",
    ]
    assert printed.err.splitlines() == told
    assert f"in service in us-west-2, with configuration {name}" in printed.out
    assert "deploy/client.py --endpoint_name pegasus --region us-west-2" in printed.out


def test_the_same_options_change_nothing_more(cloud, capsys):
    deploy("--max_capacity", 3, "--model_data_url", "s3://models/base/model.tar.gz")
    assert cloud.changes()
    for more in ((), ("--update",), ("--endpoint_name", "pegasus"), ("--endpoint_ecr_image_path", f"{IMAGE}:latest")):
        capsys.readouterr()
        assert deploy("--max_capacity", 3, "--model_data_url", "s3://models/base/model.tar.gz", *more) == 0
        assert cloud.changes() == []
        printed = capsys.readouterr()
        assert (printed.err, printed.out.count("\n")) == ("", 1)
        assert "in service already" in printed.out


def test_another_option_is_a_new_version_and_only_update_moves_the_endpoint(cloud, capsys):
    deploy()
    _, first, _ = cloud.running()
    cloud.changes()
    with pytest.raises(PegasusError, match=r"has configuration pegasus-\w+, not pegasus-\w+: --update moves it$"):
        deploy("--instance_type", "ml.g4dn.xlarge")
    assert cloud.changes() == []
    deploy("--instance_type", "ml.g4dn.xlarge", "--update")
    assert cloud.changes() == ["CreateEndpointConfig", "UpdateEndpoint"]
    _, second, _ = cloud.running()
    assert second["ProductionVariants"][0]["InstanceType"] == "ml.g4dn.xlarge"
    assert second["ProductionVariants"][0]["ModelName"] == first["ProductionVariants"][0]["ModelName"]
    capsys.readouterr()
    deploy("--update")
    assert cloud.changes() == ["UpdateEndpoint"]  # back to the version that is still there
    assert cloud.running()[1] == first
    assert "pegasus: Updating after" in capsys.readouterr().err
    deploy("--serve_flags=--workers=2", "--update")
    assert cloud.changes() == ["CreateModel", "CreateEndpointConfig", "UpdateEndpoint"]
    assert len(cloud.models()) == 2
    assert len(cloud.configurations()) == 3


def test_update_makes_what_is_not_there(cloud):
    deploy("--update")
    assert cloud.changes() == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]


def test_a_tag_pushed_anew_and_a_model_copied_anew_are_new_versions(cloud):
    flags = ("--model_data_url", "s3://models/base/model.tar.gz")
    deploy(*flags)
    assert cloud.running()[2]["PrimaryContainer"]["ModelDataUrl"] == flags[1]
    digest = cloud.push("latest", b"second")
    with pytest.raises(PegasusError, match="--update moves it"):
        deploy(*flags)
    deploy(*flags, "--update")
    assert cloud.running()[2]["PrimaryContainer"]["Image"] == f"{IMAGE}@{digest}"
    cloud.s3.put_object(Bucket="models", Key="base/model.tar.gz", Body=b"second")
    with pytest.raises(PegasusError, match="--update moves it"):
        deploy(*flags)
    deploy(*flags, "--update")
    assert len(cloud.models()) == 3


def test_an_image_under_its_digest_is_taken_as_it_is(cloud):
    path = f"{IMAGE}@sha256:{'0' * 64}"
    deploy("--endpoint_ecr_image_path", path)
    assert cloud.running()[2]["PrimaryContainer"]["Image"] == path


def test_data_capture(cloud):
    deploy("--data_capture_s3_uri", "s3://models/seen", "--data_capture_percentage", 20)
    (request,) = [arguments for name, arguments in cloud.calls if name == "CreateEndpointConfig"]
    capture = request["DataCaptureConfig"]
    assert capture["EnableCapture"] is True
    assert (capture["DestinationS3Uri"], capture["InitialSamplingPercentage"]) == ("s3://models/seen", 20)
    assert [option["CaptureMode"] for option in capture["CaptureOptions"]] == ["Input", "Output"]


def test_scaling_follows_the_options(cloud):
    session = boto3.Session(region_name=REGION)
    deploy("--min_capacity", 2, "--max_capacity", 6, "--target_invocations", 30)
    assert cloud.running()[1]["ProductionVariants"][0]["InitialInstanceCount"] == 2
    (request,) = [arguments for name, arguments in cloud.calls if name == "PutScalingPolicy"]
    assert request["ResourceId"] == "endpoint/pegasus/variant/AllTraffic"
    assert create_endpoint.current_scaling(session, "pegasus") == (2, 6, 30.0)
    cloud.changes()
    with pytest.raises(PegasusError, match=r"has scaling \(2, 6, 30.0\), not \(2, 8, 30.0\): --update"):
        deploy("--min_capacity", 2, "--max_capacity", 8, "--target_invocations", 30)
    deploy("--min_capacity", 2, "--max_capacity", 8, "--target_invocations", 30, "--update")
    assert cloud.changes() == ["RegisterScalableTarget", "PutScalingPolicy"]
    assert create_endpoint.current_scaling(session, "pegasus") == (2, 8, 30.0)
    # Another machine: SageMaker refuses that while the number scales, and the number reached is to be kept.
    machine = ("--instance_type", "ml.g4dn.xlarge", "--update")
    deploy("--min_capacity", 2, "--max_capacity", 8, *machine)
    moves = [arguments for name, arguments in cloud.calls if name == "UpdateEndpoint"]
    assert [move["RetainAllVariantProperties"] for move in moves] == [True]
    assert moves[0]["ExcludeRetainedVariantProperties"] == [{"VariantPropertyType": "DataCaptureConfig"}]
    wanted = ["DeregisterScalableTarget", "UpdateEndpoint", "RegisterScalableTarget", "PutScalingPolicy"]
    assert cloud.changes()[1:] == wanted
    assert create_endpoint.current_scaling(session, "pegasus") == (2, 8, 100.0)
    deploy("--min_capacity", 2, *machine)
    assert cloud.changes() == ["DeregisterScalableTarget"]
    assert create_endpoint.current_scaling(session, "pegasus") is None
    deploy("--min_capacity", 3, *machine)
    assert set(cloud.calls[-1][1]) == {"EndpointName", "EndpointConfigName"}
    assert cloud.running()[1]["ProductionVariants"][0]["InitialInstanceCount"] == 3


def test_delete_leaves_nothing_of_it_and_everything_else(cloud, capsys):
    deploy("--endpoint_name", "pegasus-2", "--max_capacity", 2)
    others = cloud.models() | cloud.configurations()
    deploy("--max_capacity", 2)
    deploy("--serve_flags=--workers=2", "--update")
    capsys.readouterr()
    assert create_endpoint.main(["--endpoint_name", "pegasus", "--delete", "--region", REGION]) == 0
    assert set(cloud.endpoints) == {"pegasus-2"}
    assert cloud.models() | cloud.configurations() == others
    session = boto3.Session(region_name=REGION)
    assert create_endpoint.current_scaling(session, "pegasus") is None
    assert create_endpoint.current_scaling(session, "pegasus-2") == (1, 2, 100.0)
    assert capsys.readouterr().out.count("deleted ") == 5
    cloud.changes()
    assert create_endpoint.main(["--endpoint_name", "pegasus", "--delete", "--region", REGION]) == 0
    assert cloud.changes() == []
    assert capsys.readouterr().out == "no endpoint pegasus is left\n"


def test_an_endpoint_that_fails_is_told_with_the_reason(cloud):
    cloud.fate = "Failed"
    with pytest.raises(PegasusError, match=r"it is Failed, .* \(the container does not answer /ping\)$"):
        deploy("--max_capacity", 2)
    assert create_endpoint.current_scaling(boto3.Session(region_name=REGION), "pegasus") is None
    cloud.changes()
    cloud.fate = "InService"
    with pytest.raises(PegasusError, match=r"pegasus is Failed, .*: remove it with --delete, then make it anew$"):
        deploy("--max_capacity", 2, "--update")
    assert cloud.changes() == []
    create_endpoint.main(["--endpoint_name", "pegasus", "--delete", "--region", REGION])
    deploy("--max_capacity", 2)
    assert cloud.running()[0] == "InService"


def test_an_endpoint_that_cannot_be_moved_stays_as_it_was(cloud):
    deploy("--max_capacity", 2)
    _, before, _ = cloud.running()
    cloud.fate = "Failed"
    with pytest.raises(PegasusError, match=r"did not come to .*: it is InService, .* \(the container does not answer"):
        deploy("--max_capacity", 4, "--instance_type", "ml.g4dn.xlarge", "--update")
    assert cloud.running()[:2] == ("InService", before)
    assert create_endpoint.current_scaling(boto3.Session(region_name=REGION), "pegasus") == (1, 2, 100.0)


def test_a_move_that_is_refused_leaves_the_scaling(cloud):
    deploy("--max_capacity", 4)
    _, before, _ = cloud.running()
    cloud.refusals = {"UpdateEndpoint": "ResourceLimitExceeded"}
    with pytest.raises(PegasusError, match="ResourceLimitExceeded"):
        deploy("--max_capacity", 5, "--instance_type", "ml.g4dn.xlarge", "--update")
    assert cloud.running()[:2] == ("InService", before)
    assert create_endpoint.current_scaling(boto3.Session(region_name=REGION), "pegasus") == (1, 4, 100.0)


def test_what_was_cut_short_is_completed_by_the_same_command(cloud, capsys):
    session = boto3.Session(region_name=REGION)
    first = ("--max_capacity", 3)
    for flags in (first, (*first, "--instance_type", "ml.g4dn.xlarge", "--update")):
        was = create_endpoint.current_scaling(session, "pegasus") if flags is not first else None
        cloud.fate = "never"
        with pytest.raises(PegasusError, match=r"still (Creating|Updating) after 1 minutes"):
            deploy(*flags, "--wait_minutes", 1)
        told = f"scaling is none, was {was or 'none'}: this command again makes it (1, 3, 100.0)"
        assert capsys.readouterr().err.splitlines()[-1] == told
        cloud.fate = "InService"
        cloud.changes()
        deploy(*flags)
        assert cloud.changes() == ["RegisterScalableTarget", "PutScalingPolicy"]
        assert create_endpoint.current_scaling(session, "pegasus") == (1, 3, 100.0)


def test_an_endpoint_that_is_being_made_is_waited_for(cloud, capsys):
    cloud.fate = "never"
    with pytest.raises(PegasusError, match="pegasus is still Creating after 5 minutes"):
        deploy("--wait_minutes", 5)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pegasus: ")]
    assert len(lines) == 6
    cloud.fate = "InService"
    cloud.changes()
    deploy()
    assert cloud.changes() == []
    assert cloud.running()[0] == "InService"


def test_the_progress_is_one_line_on_a_terminal(cloud, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    deploy()
    last = capsys.readouterr().err.split("\n")[-2]
    assert last == f"\r{'pegasus: Creating after 0 s':<40}\r{'pegasus: InService after 10 s':<40}"


def test_what_is_not_there_is_told_before_anything_is_made(cloud):
    for flags, message in (
        (("--endpoint_ecr_image_path", f"{IMAGE}:v9"), "there is no image .*:v9: push it with"),
        (("--endpoint_ecr_image_path", IMAGE.replace("t5-", "t6-")), "there is no image .*/t6-pegasus: push it with"),
        (("--model_data_url", "s3://models/none.tar.gz"), "there is no model s3://models/none.tar.gz"),
        (("--model_data_url", "s3://nowhere/none.tar.gz"), "there is no model s3://nowhere/none.tar.gz"),
        (("--role", "nobody"), "Role nobody not found"),
    ):
        with pytest.raises(PegasusError, match=message):
            deploy(*flags)
    assert cloud.calls == []


def test_without_the_right_to_look_the_image_is_taken_by_its_tag(cloud, capsys):
    cloud.refusals = {"DescribeImages": "AccessDeniedException", "HeadObject": "403"}
    deploy("--model_data_url", "s3://models/base/model.tar.gz")
    assert cloud.running()[2]["PrimaryContainer"]["Image"] == f"{IMAGE}:latest"
    assert capsys.readouterr().err.count("cannot be looked up") == 2


def test_only_scaling_needs_the_rights_for_it(cloud, capsys):
    cloud.refusals = {"DescribeScalableTargets": "AccessDeniedException"}
    with pytest.raises(PegasusError, match=r"AccessDenied.* DescribeScalableTargets"):
        deploy("--max_capacity", 2)
    assert cloud.calls == []
    deploy()
    deploy("--serve_flags=--workers=2", "--update")
    assert cloud.running()[0] == "InService"
    assert create_endpoint.main(["--endpoint_name", "pegasus", "--delete", "--region", REGION]) == 0
    assert not cloud.endpoints
    assert capsys.readouterr().err.count("the scaling of pegasus, if it has any, is left as it is") == 3


LOCKED = (
    *("--subnets", "subnet-0a,subnet-0b", "--security_groups", "sg-01", "--enable_network_isolation"),
    *("--kms_key_id", "alias/disks", "--data_capture_s3_uri", "s3://models/seen"),
    *("--data_capture_kms_key_id", f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0-1"),
)
LOCKED_MODEL = {
    "VpcConfig": {"SecurityGroupIds": ["sg-01"], "Subnets": ["subnet-0a", "subnet-0b"]},
    "EnableNetworkIsolation": True,
}


def test_networks_and_keys_are_as_asked_for_and_otherwise_not_named(cloud):
    deploy()
    plain = dict(cloud.calls)
    assert not {"VpcConfig", "EnableNetworkIsolation"} & plain["CreateModel"].keys()
    assert not {"KmsKeyId", "DataCaptureConfig"} & plain["CreateEndpointConfig"].keys()
    cloud.changes()
    deploy(*LOCKED, "--update")
    made = dict(cloud.calls)
    assert {key: made["CreateModel"][key] for key in LOCKED_MODEL} == LOCKED_MODEL
    assert made["CreateEndpointConfig"]["KmsKeyId"] == "alias/disks"
    assert made["CreateEndpointConfig"]["DataCaptureConfig"]["KmsKeyId"].endswith(":key/0-1")
    _, configuration, model = cloud.running()
    assert model["VpcConfig"] == LOCKED_MODEL["VpcConfig"]
    assert configuration["KmsKeyId"] == "alias/disks"
    cloud.changes()
    deploy(*LOCKED)
    assert cloud.changes() == []


class Stubs:
    """Clients that answer what they are told to, in order, and check each request against AWS's own description."""

    region_name = REGION

    def __init__(self):
        self._clients = {}

    def client(self, name):
        return self._at(name)[0]

    def _at(self, name):
        if name not in self._clients:
            client = boto3.client(name, region_name=REGION, aws_access_key_id="x", aws_secret_access_key="x")
            self._clients[name] = client, Stubber(client)
            self._clients[name][1].activate()
        return self._clients[name]

    def expect(self, client, operation, request, answer):
        stubber = self._at(client)[1]
        if answer == "missing":
            stubber.add_client_error(operation, "ValidationException", "Could not find it", expected_params=request)
        else:
            stubber.add_response(operation, answer, request)

    def check(self):
        for _, stubber in self._clients.values():
            stubber.assert_no_pending_responses()


def endpoint(configuration, status="InService"):
    arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/pegasus"
    dates = dict.fromkeys(("CreationTime", "LastModifiedTime"), 0)
    return {
        "EndpointName": "pegasus",
        "EndpointArn": arn,
        "EndpointConfigName": configuration,
        "EndpointStatus": status,
        **dates,
    }


@pytest.mark.parametrize("scales", [False, True])
def test_update_asks_for_what_aws_describes(scales, monkeypatch):
    """Against botocore's description of the API, of which moto has no update_endpoint."""
    monkeypatch.setattr(create_endpoint.time, "sleep", lambda seconds: None)
    image = f"{IMAGE}@sha256:{'0' * 64}"
    config = create_endpoint.DeploymentConfig(
        endpoint_ecr_image_path=image,
        role=ROLE,
        update=True,
        subnets="subnet-0a,subnet-0b",
        security_groups="sg-01",
        enable_network_isolation=True,
        kms_key_id="alias/disks",
        data_capture_s3_uri="s3://models/seen",
        data_capture_kms_key_id="alias/seen",
        max_capacity=3 if scales else None,
    )
    stubs = Stubs()
    model = create_endpoint.model_request(stubs, config)
    assert {key: model[key] for key in LOCKED_MODEL} == LOCKED_MODEL
    wanted = create_endpoint.configuration_request(config, model["ModelName"])
    name = {"EndpointName": "pegasus"}
    where = {"ResourceId": "endpoint/pegasus/variant/AllTraffic", "ServiceNamespace": "sagemaker"}
    target = {**where, "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
    aim = {
        "TargetValue": 100.0,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
    }
    policy = {**target, "PolicyName": "pegasus-invocations", "PolicyType": "TargetTrackingScaling"}
    policy["TargetTrackingScalingPolicyConfiguration"] = aim
    found = {**target, "MinCapacity": 1, "MaxCapacity": 3, "RoleARN": ROLE, "CreationTime": 0}
    stubs.expect("sagemaker", "describe_endpoint", name, endpoint("pegasus-old"))
    stubs.expect(
        "application-autoscaling",
        "describe_scalable_targets",
        {"ServiceNamespace": "sagemaker", "ResourceIds": [where["ResourceId"]]},
        {"ScalableTargets": [found] if scales else []},
    )
    if scales:
        described = {**policy, "PolicyARN": "arn:policy", "CreationTime": 0}
        stubs.expect("application-autoscaling", "describe_scaling_policies", where, {"ScalingPolicies": [described]})
        stubs.expect("application-autoscaling", "deregister_scalable_target", target, {})
    stubs.expect("sagemaker", "describe_model", {"ModelName": model["ModelName"]}, "missing")
    arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:x/y-{'0' * 8}"
    stubs.expect("sagemaker", "create_model", model, {"ModelArn": arn})
    configuration = wanted["EndpointConfigName"]
    stubs.expect("sagemaker", "describe_endpoint_config", {"EndpointConfigName": configuration}, "missing")
    stubs.expect("sagemaker", "create_endpoint_config", wanted, {"EndpointConfigArn": arn})
    keep = {
        "RetainAllVariantProperties": True,
        "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DataCaptureConfig"}],
    }
    move = {**name, "EndpointConfigName": configuration, **(keep if scales else {})}
    stubs.expect("sagemaker", "update_endpoint", move, {"EndpointArn": arn})
    stubs.expect("sagemaker", "describe_endpoint", name, endpoint("pegasus-old", "Updating"))
    stubs.expect("sagemaker", "describe_endpoint", name, endpoint(configuration))
    if scales:
        limits = {**target, "MinCapacity": 1, "MaxCapacity": 3}
        stubs.expect("application-autoscaling", "register_scalable_target", limits, {})
        stubs.expect("application-autoscaling", "put_scaling_policy", policy, {"PolicyARN": "arn:policy"})
    create_endpoint.deploy(stubs, config)
    stubs.check()


def test_regions_of_china(cloud):
    image = f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/t5-pegasus@sha256:{'0' * 64}"
    create_endpoint.main(["--endpoint_ecr_image_path", image, "--role", ROLE.replace("aws", "aws-cn")])
    china = boto3.client("sagemaker", region_name="cn-north-1")
    assert "aws-cn" in china.describe_endpoint(EndpointName="pegasus")["EndpointArn"]


GOOD = {"--endpoint_ecr_image_path": IMAGE, "--role": ROLE}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"--endpoint_ecr_image_path": "t5-pegasus:latest"},
            "endpoint_ecr_image_path must look like .*got t5-pegasus:",
        ),
        ({"--endpoint_ecr_image_path": f"{IMAGE}:v1 "}, "endpoint_ecr_image_path must look like"),
        ({"--role": ""}, "role must be the name or the ARN of a role, got "),
        ({"--endpoint_name": "a--b"}, "endpoint_name must be at most 50 letters, digits and single hyphens, got a--b"),
        ({"--endpoint_name": "标题"}, "endpoint_name must be"),
        ({"--endpoint_name": "a" * 51}, "endpoint_name must be"),
        ({"--instance_type": "g4dn.8xlarge"}, "instance_type must look like ml.g4dn.8xlarge, got g4dn.8xlarge"),
        ({"--model_data_url": "s3://bucket/model.zip"}, "model_data_url must look like s3://bucket/x.tar.gz, got"),
        ({"--data_capture_s3_uri": "/tmp"}, "data_capture_s3_uri must look like s3://bucket/folder, got /tmp"),
        ({"--data_capture_percentage": "0"}, "data_capture_percentage must be from 1 to 100, got 0"),
        ({"--kms_key_id": "a key"}, "kms_key_id must be the id, ARN or alias/… of a KMS key, got a key"),
        ({"--data_capture_kms_key_id": "alias/x"}, "data_capture_kms_key_id needs data_capture_s3_uri, got alias/x"),
        ({"--subnets": "subnet-0a"}, "subnets and security_groups must be given together, got only subnet-0a"),
        (
            {"--subnets": "subnet-0a", "--security_groups": "sg-1, sg-2"},
            "security_groups must look like .*, got sg-1, sg-2",
        ),
        ({"--subnets": "vpc-0a", "--security_groups": "sg-1"}, "subnets must look like .*, got vpc-0a"),
        ({"--min_capacity": "0"}, "min_capacity must be at least 1, got 0"),
        ({"--min_capacity": "3", "--max_capacity": "2"}, r"max_capacity must be at least min_capacity \(3\), got 2"),
        ({"--instance_count": "5", "--max_capacity": "2"}, "instance_count must be from min_capacity to max_capacity"),
        ({"--instance_count": "0"}, "instance_count must be from min_capacity to max_capacity, got 0"),
        ({"--target_invocations": "nan"}, "target_invocations must be above 0, got nan"),
        ({"--wait_minutes": "inf"}, "wait_minutes must be above 0, got inf"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(flags, message):
    with pytest.raises(OptionError, match=message):
        create_endpoint.main(list(itertools.chain.from_iterable({**GOOD, **flags}.items())))


def test_update_and_delete_exclude_each_other():
    with pytest.raises(OptionError, match="update and delete exclude each other"):
        create_endpoint.main(["--update", "--delete"])


def run(*command, cwd=ROOT, **options):
    options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 60, **options}
    return subprocess.run([*map(str, command)], cwd=cwd, **options)


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("create_endpoint.py", list(itertools.chain(*GOOD.items()))),
        ("client.py", ["--endpoint_name", "x", "文"]),
    ],
)
def test_without_boto3_or_credentials_it_is_one_line_and_exit_code_2(script, flags, tmp_path):
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    code = f"import runpy, sys\nsys.path.insert(0, {str(DEPLOY)!r})\nsys.argv = sys.argv[1:]\n"
    code += "sys.modules['boto3'] = None\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    missing = run(sys.executable, "-c", code, DEPLOY / script, *flags, env=bare)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "error: boto3 is not installed: `pip install boto3`\n"
    region = {**bare, "AWS_DEFAULT_REGION": REGION}
    unknown = run(sys.executable, DEPLOY / script, *flags, env=region, cwd=tmp_path)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "error: AWS: Unable to locate credentials\n"
    helped = run(sys.executable, "-c", code, DEPLOY / script, "--help", env=bare)
    assert helped.returncode == 0, helped.stderr


# build_and_push.sh

AWS = """
case "$*" in
*get-caller-identity*) echo 123456789012 ;;
"configure get region") echo "${STUB_REGION-us-west-2}"; [ -n "${STUB_REGION-us-west-2}" ] ;;
*describe-repositories*) [ -z "${STUB_ERROR-}" ] || { printf '\\n%s\\n' "$STUB_ERROR" >&2; exit 254; } ;;
*get-login-password*) echo secret ;;
esac
"""
DOCKER = """
case "$1" in
login) cat >>"$CALLS"; ;;
buildx | push) [ "${STUB_FAILS-}" != "$1" ] || exit 3; echo "some output of docker" ;;
esac
"""


@pytest.fixture
def build(tmp_path):
    """Return a function that runs build_and_push.sh where aws and docker only record how they are called."""
    calls = tmp_path / "calls"
    for name, answers in (("aws", AWS), ("docker", DOCKER)):
        stub = tmp_path / name
        stub.write_text(
            f'#!/bin/bash\nprintf "%q " {name} "$@" >>"$CALLS"; echo >>"$CALLS"\n{answers}', encoding="utf-8"
        )
        stub.chmod(0o755)

    def build(*flags, **variables):
        calls.write_text("")
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls), **variables}
        ran = run("bash", DEPLOY / "build_and_push.sh", *flags, cwd=tmp_path, env=environment)
        return ran, [line.strip() for line in calls.read_text().splitlines()]

    return build


def test_the_image_is_built_and_pushed(build):
    ran, calls = build()
    image = f"{IMAGE}:latest"
    assert (ran.returncode, ran.stdout) == (0, f"{image}\n"), ran.stderr
    registry = image.partition("/")[0]
    assert calls[:4] == [
        "aws configure get region",
        "aws sts get-caller-identity --query Account --output text --region us-west-2",
        "aws ecr --region us-west-2 describe-repositories --registry-id 123456789012 --repository-names t5-pegasus",
        "docker buildx build --file deploy/Dockerfile --platform linux/amd64 --provenance=false --output type=docker "
        "--build-arg ENGINE=tensorflow --build-arg DEVICE=cpu --build-arg MODEL_DIR=deploy/model "
        f"--tag {image} .",
    ]
    # The ends of a pipe, in any order; the password comes by standard input, where no other user sees it.
    assert set(calls[4:-1]) == {
        "aws ecr --region us-west-2 get-login-password",
        f"docker login --username AWS --password-stdin {registry}",
        "secret",
    }
    assert calls[-1] == f"docker push {image}"
    assert create_endpoint._IMAGE.fullmatch(ran.stdout.strip())


def test_china_s_registry_has_its_own_domain_and_a_missing_repository_is_made(build):
    error = "An error occurred (RepositoryNotFoundException) when calling the DescribeRepositories operation"
    flags = "--region cn-north-1 --account 210987654321 --repository nlp/titles --tag v1.2 --platform linux/arm64"
    ran, calls = build(*flags.split(), STUB_ERROR=error)
    registry = "210987654321.dkr.ecr.cn-north-1.amazonaws.com.cn"
    assert (ran.returncode, ran.stdout) == (0, f"{registry}/nlp/titles:v1.2\n"), ran.stderr
    assert not any("configure" in call or " sts " in call for call in calls)
    made = [call for call in calls if "create-repository" in call]
    assert made == [
        "aws ecr --region cn-north-1 create-repository --registry-id 210987654321 --repository-name nlp/titles "
        "--image-scanning-configuration scanOnPush=true"
    ]
    assert calls.index(made[0]) < next(place for place, call in enumerate(calls) if "buildx" in call)
    assert any("--platform linux/arm64" in call for call in calls)
    assert any(call.endswith(f"--password-stdin {registry}") for call in calls)
    assert create_endpoint._parts(create_endpoint._IMAGE, ran.stdout.strip())["region"] == "cn-north-1"


def test_every_image_can_be_asked_for_and_docker_s_own_options_go_through(build):
    for lock in (ROOT / "requirements").glob("serve-*.txt"):
        _, engine, device = lock.stem.split("-")
        ran, calls = build("--engine", engine, "--device", device, "--", "--build-arg", "PYTHON_IMAGE=a b")
        assert ran.returncode == 0, ran.stderr
        (built,) = [call for call in calls if "buildx" in call]
        assert f"--build-arg ENGINE={engine} --build-arg DEVICE={device}" in built
        assert built.endswith("--build-arg PYTHON_IMAGE=a\\ b .")


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        (["--tag"], {}, "--tag needs a value (--help lists the options)"),
        (["--tag", "--region"], {}, "--tag needs a value (--help lists the options)"),
        (["--tagged", "x"], {}, "unknown option --tagged (--help lists the options)"),
        (["--region", "moon"], {}, "region must look like us-east-1, got moon"),
        (["--account", "12"], {}, "account must be 12 digits, got 12"),
        (["--repository", "T5"], {}, "repository must be small letters and digits with . _ - / between them, got T5"),
        (["--repository", "x/"], {}, "repository must be small letters and digits with . _ - / between them, got x/"),
        (["--tag", "-x"], {}, "tag must be letters and digits with . _ - among them, got -x"),
        (["--tag", "x" * 129], {}, "tag must be letters and digits with . _ - among them, got xxx"),
        ([], {"STUB_REGION": ""}, "no region: give --region or run `aws configure`"),
        (
            ["--engine", "onnx", "--device", "gpu"],
            {},
            "no image for engine onnx on device gpu; there are: onnx on cpu, tensorflow on cpu, tensorflow on gpu",
        ),
        (["--model_dir", "/tmp"], {}, "model_dir must be a folder of this repository, got /tmp"),
        (
            ["--model_dir", "data"],
            {},
            "model_dir must hold config.json, vocab.txt and weights, or be an exported model",
        ),
        ([], {"STUB_ERROR": "An error occurred (AccessDenied)"}, "An error occurred (AccessDenied)"),
    ],
)
def test_what_cannot_be_built_is_told_before_the_build(build, flags, variables, message):
    ran, calls = build(*flags, **variables)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
    assert message in ran.stderr
    assert not any(call.startswith("docker") for call in calls)


@pytest.mark.parametrize("step", ["buildx", "push"])
def test_where_docker_fails_nothing_more_is_done(build, step):
    ran, calls = build(STUB_FAILS=step)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert calls[-1].startswith(f"docker {step}")


# The image

LINTERS = {"shellcheck": [DEPLOY / "build_and_push.sh", DEPLOY / "serve"], "hadolint": [DEPLOY / "Dockerfile"]}


@pytest.mark.parametrize("linter", LINTERS)
def test_linters_find_nothing(linter):
    program = shutil.which(linter, path=f"{BIN}:{os.environ['PATH']}")
    if program is None:
        pytest.skip(f"{linter} is not installed")
    ran = run(program, *LINTERS[linter])
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout


def test_serve_finds_the_model_and_splits_the_flags(tmp_path):
    """Whatever the flags, in the environment or given; `python` only prints how it is called."""
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    (tmp_path / "note.txt").touch()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SAGEMAKER_BASE_DIR": str(tmp_path / "ml")}
    mounted = tmp_path / "ml" / "model"

    def serve(*flags, **variables):
        return run("sh", DEPLOY / "serve", *flags, cwd=tmp_path, env={**environment, **variables})

    for nothing in (serve(), serve("--workers", "2"), serve(SERVE_FLAGS="--workers 2")):
        assert (nothing.returncode, nothing.stdout) == (2, "")
        assert nothing.stderr.startswith(f"error: no model: mount a model directory at {mounted}, ")
    assert serve(SERVE_FLAGS="--model_dir=x --user_dict *.txt").stdout.split() == [
        *("serve.py", "--model_dir=x", "--user_dict", "*.txt")
    ]
    assert serve("--help").stdout.split() == ["serve.py", "--help"]
    for folder, model_dir in ((tmp_path / "model", "model"), (mounted, str(mounted))):
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
        flags = ["serve.py", "--model_dir", model_dir, "--run_dir", str(mounted), "--workers", "2", "--port", "1"]
        assert serve("--port", "1", SERVE_FLAGS="--workers 2").stdout.split() == flags


@pytest.mark.parametrize(
    ("command", "variables", "url"),
    [
        (["python", "serve.py"], {}, "http://127.0.0.1:8080/ping"),
        (["python", "serve.py"], {"SAGEMAKER_BIND_TO_PORT": "8090"}, "http://127.0.0.1:8090/ping"),
        (["docker-init", "--", "serve"], {"SERVE_FLAGS": "--num_beams 4 --port 9000"}, "http://127.0.0.1:9000/ping"),
        (["serve.py", "--port=9001"], {"SERVE_FLAGS": "--port 9000"}, "http://127.0.0.1:9001/ping"),
        (["serve.py", "--host", "::", "--port", "9002", ""], {}, "http://[::1]:9002/ping"),
        (["serve.py", "--host", "10.0.0.7"], {"SAGEMAKER_BIND_TO_PORT": "1"}, "http://10.0.0.7:1/ping"),
    ],
)
def test_the_health_check_asks_where_the_service_listens(command, variables, url):
    assert healthcheck.address(command, variables) == url


def test_the_health_check_is_of_the_answer(service):
    def check(**variables):
        return run(sys.executable, DEPLOY / "healthcheck.py", env={**os.environ, "http_proxy": "http://x", **variables})

    well = check(SERVE_FLAGS=f"--port {service.server_port}")
    assert (well.returncode, well.stderr) == (0, "")
    assert [path for path, _, _ in service.requests] == ["/ping"]
    service.answers.append((503, {}, {"error": {"code": "loading"}}))
    loading = check(SERVE_FLAGS=f"--port {service.server_port}")
    assert (loading.returncode, loading.stderr.count("\n")) == (1, 1)
    assert "503" in loading.stderr
    for flags in ("--port x", "--port 99999", "--host [::1", "--host 文", f"--host {'x' * 300}"):
        junk = check(SERVE_FLAGS=flags)
        assert (junk.returncode, junk.stderr.count("\n")) == (1, 1), junk.stderr


def test_the_images_have_the_versions_that_are_tested_here():
    def pins(name):
        return set(re.findall(r"^[\w.-]+==\S+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    tested = pins("base.txt") | pins("dev.txt")
    locks = {lock.name: pins(lock.name) for lock in (ROOT / "requirements").glob("serve-*.txt")}
    assert len(locks) == 3
    for name, packages in locks.items():
        untested = {package for package in packages - tested if not package.startswith("nvidia-")}
        assert not untested
        assert any(package.startswith("tensorflow==") for package in packages) == ("tensorflow" in name)
        assert any(package.startswith("nvidia-") for package in packages) == ("gpu" in name)


class Stage:
    """A stage of the Dockerfile, carried out in a folder in place of an image: a virtual environment is its Python.

    Paths from the root are put under that folder, in what is copied and in what is run.
    """

    def __init__(self, root, arguments):
        self.root, self.variables, self.directory = root, dict(arguments), "/"
        run(sys.executable, "-m", "venv", self.path("/usr/local"), check=True)
        self.environment = {**os.environ, "PATH": f"{self.path('/usr/local/bin')}:{os.environ['PATH']}"}

    def path(self, name):
        return self.root / os.path.join(self.directory, name).lstrip("/")

    def place(self, text):
        return re.sub(r"(?<![\w./:])/(?=[a-z])", f"{self.root}/", text)

    def copy(self, source, target, into_folder):
        target = self.path(target) / (source.name if into_folder else "")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)
        else:
            shutil.copy(source, target)

    def run(self, command, timeout):
        folder = self.path(".")
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**self.environment, **self.variables}
        done = run("bash", "-euc", self.place(command), cwd=folder, env=environment, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr


def instructions(dockerfile):
    """Yield (instruction, its text) of a Dockerfile, continued lines joined."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def expand(text, variables):
    return re.sub(r"\$\{(\w+)\}", lambda match: variables[match[1]], text)


def build_image(folder, arguments):
    """Carry the Dockerfile's steps out in a folder; return the last stage and its instructions by name."""
    stages, given, last = {}, {}, {}
    for name, text in instructions(DEPLOY / "Dockerfile"):
        stage = next(reversed(stages.values()), None)
        if name == "FROM":
            image, _, alias = expand(text, given).partition(" AS ")
            assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", image)
            stages[alias], last = Stage(folder / f"stage{len(stages)}", {}), {}
        elif name == "ARG":
            key, has_default, default = text.partition("=")
            if has_default or key in arguments:
                (stage.variables if stage else given)[key] = arguments.get(key, default)
        elif name == "ENV":
            stage.environment.update(part.split("=", 1) for part in shlex.split(text))
        elif name == "WORKDIR":
            stage.directory = text
        elif name == "COPY":
            words = expand(text, stage.variables).split()
            options = dict(word[2:].split("=") for word in words if word.startswith("--"))
            source, target = (word for word in words if not word.startswith("--"))
            home = stages[options["from"]].path(source) if "from" in options else ROOT / source
            stage.copy(home, target, target.endswith("/"))
            if "chmod" in options:
                stage.path(target).chmod(int(options["chmod"], 8))
        elif name == "RUN" and not text.startswith("useradd"):  # a user for the machine that runs the tests
            stage.run(text, timeout=600)
        last[name] = text
    return stage, last


@pytest.fixture(scope="module")
def exported_dir(random_t5, random_model_dir, tmp_path_factory):
    """Return a random model exported in int8."""
    from t5_pegasus.engines.onnx_export import export_model

    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(random_t5, random_model_dir / "vocab.txt", folder, "int8")
    return folder


@contextlib.contextmanager
def started(stage, *command, **variables):
    """Start the image's command and yield the port on which it answers; it has to stop on SIGTERM without a word."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**stage.environment, "SAGEMAKER_BIND_TO_PORT": str(port), **variables}
    folder = stage.path("/opt/t5_pegasus")
    with (stage.root / "log").open("w+b") as log:
        process = subprocess.Popen([*command], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            for _ in range(600):
                with contextlib.suppress(PegasusError):
                    client.over_http(f"http://127.0.0.1:{port}", None, 5)({"data": "乐乐"})
                    break
                assert process.poll() is None, (stage.root / "log").read_text()
                time.sleep(0.1)
            yield port
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, (stage.root / "log").read_text()
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def scratch(tmp_path):
    """Return a folder that is removed at once: pytest keeps the last ones, and an image is over 2 GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "tensorflow"])
def test_the_image_s_steps_make_a_service(engine, exported_dir, random_model_dir, hugging_face, scratch):
    model = exported_dir if engine == "onnx" else random_model_dir
    arguments = {"ENGINE": engine, "MODEL_DIR": os.path.relpath(model, ROOT)}
    stage, last = build_image(scratch, arguments)
    assert (last["CMD"], last["USER"]) == ('["serve"]', "${RUN_AS}")
    assert stage.variables["RUN_AS"] not in ("root", "0")
    assert stage.environment["XDG_CACHE_HOME"] == "/tmp"  # which any user may write to
    python = stage.path("/usr/local/bin/python")
    if engine == "onnx":
        absent = run(python, "-c", "import tensorflow", env=stage.environment)
        assert "No module named 'tensorflow'" in absent.stderr
    health = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    with started(stage, "serve", SAGEMAKER_BASE_DIR=str(scratch / "none")) as port:
        variables = {**stage.environment, "SAGEMAKER_BIND_TO_PORT": str(port)}
        assert run(*health, env=variables).returncode == 0
        asked = run(python, DEPLOY / "client.py", "--url", f"http://127.0.0.1:{port}", "--num_beams", "2", "一丁丂七")
        assert asked.returncode == 0, asked.stderr
        (title,) = asked.stdout.splitlines()
    assert run(*health, env=variables).returncode != 0
    # What SageMaker mounts goes before what is in the image, and flags may come from the environment.
    mounted = scratch / "ml" / "model"
    shutil.copytree(model, mounted)
    shutil.rmtree(stage.path("/opt/t5_pegasus/model"))
    refused = run("serve", cwd=stage.path("/opt/t5_pegasus"), env={**variables, "SAGEMAKER_BASE_DIR": str(scratch)})
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "no model: mount a model directory at" in refused.stderr
    limits = {"SAGEMAKER_BASE_DIR": str(mounted.parent), "SERVE_FLAGS": "--limit_num_beams 3 --max_chars 100"}
    with started(stage, "serve", **limits) as port:
        url = f"http://127.0.0.1:{port}"
        answer = client.ask(client.over_http(url, None, 30), ["一丁丂七"], {"num_beams": 2})
        assert answer == [[title]]
        with pytest.raises(PegasusError, match=r"422.*num_beams"):
            client.ask(client.over_http(url, None, 30), ["一丁丂七"], {"num_beams": 4})
    for name in ("flan_t5", "uer_pegasus"):  # whose tokenizers are sentencepiece's and tokenizers' own
        folder = scratch / name / "model"
        if engine == "onnx":
            assert export.main(["--model_dir", str(hugging_face / name), "--output_dir", str(folder)]) == 0
        else:
            shutil.copytree(hugging_face / name, folder)
        with started(stage, "serve", SAGEMAKER_BASE_DIR=str(folder.parent)) as port:
            answer = client.ask(client.over_http(f"http://127.0.0.1:{port}", None, 30), ["公司发布新电池。"], {})
        assert answer == [[AutoTitle.load(folder, engine="auto").generate("公司发布新电池。")]]


# client.py


@pytest.fixture
def service():
    """Start a server that answers /invocations with what `service.answers` has in turn, else with reversed texts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or '{"data": []}')
            self.server.requests.append((self.path, self.headers, body))
            result = {"result": [text[::-1] for text in body["data"]], "infer_time": "0.1"}
            status, headers, answer = self.server.answers.pop(0) if self.server.answers else (200, {}, result)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(content)),
                "Content-Type": "application/json",
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            self.do_POST()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answers, server.requests = [], []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield server
        finally:
            server.shutdown()


def test_a_text_a_file_and_standard_input_have_their_titles_in_order(service, tmp_path):
    def ask(*flags, **options):
        # A proxy that leads nowhere: this machine is not to be looked for through it.
        environment = {**os.environ, "http_proxy": "http://127.0.0.1:1", "LC_ALL": "C"}
        return run(sys.executable, DEPLOY / "client.py", "--url", f"{service.url}/", *flags, env=environment, **options)

    one = ask("一二三")
    assert (one.returncode, one.stdout, one.stderr) == (0, "三二一\n", "")
    path, headers, body = service.requests.pop()
    assert (path, headers["Content-Type"], body) == ("/invocations", "application/json", {"data": ["一二三"]})
    texts = [f"第{number}篇" if number % 4 else "" for number in range(9)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    flags = ["--texts_per_request", "3", "--num_beams", "4", "--length_penalty", "0.5", "--do_sample"]
    of_file = ask(*flags, "--input_file", tmp_path / "texts.txt")
    assert of_file.stdout.splitlines() == [text[::-1] for text in texts]
    asked = [body["data"] for _, _, body in service.requests]
    assert asked == [texts[1:3], [texts[3], texts[5]], texts[6:8]]  # the last three: 第6篇, 第7篇 and an empty one
    for _, _, body in service.requests:
        assert body["parameters"] == {"num_beams": 4, "length_penalty": 0.5, "do_sample": True}
    of_input = ask(input="\ufeff甲乙\n\n丙丁")
    assert of_input.stdout == "乙甲\n\n丁丙\n"


def test_several_titles_of_a_text_are_lines_best_first(service, capsys):
    titles = [[{"title": "甲", "score": -0.1}, {"title": "乙", "score": -0.5}]]
    service.answers.append((200, {}, {"result": ["甲"], "titles": titles}))
    assert client.main(["文", "--url", service.url, "--num_beams", "2", "--num_return_sequences", "2"]) == 0
    assert capsys.readouterr().out == "甲\n乙\n"


def test_the_key_is_sent_and_only_over_http(service, tmp_path):
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    client.main(["文", "--url", service.url, "--api_key_file", str(key)])
    assert service.requests[0][1]["Authorization"] == "Bearer s3cret"
    with pytest.raises(OptionError, match="--endpoint_name goes with neither"):
        client.main(["文", "--endpoint_name", "pegasus", "--api_key_file", str(key)])
    service.answers.append((302, {"Location": f"{service.url}/elsewhere"}, b""))
    with pytest.raises(PegasusError, match=rf"answered 302: it is at {service.url}/elsewhere now, change --url$"):
        client.main(["文", "--url", service.url, "--api_key_file", str(key)])
    assert len(service.requests) == 2


def test_a_busy_service_is_asked_again_when_it_says(service, monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    busy = (503, {"Retry-After": "2"}, {"error": {"code": "queue_full", "message": "too many texts wait"}})
    service.answers += [busy, busy]
    assert client.ask(client.over_http(service.url, None, 5), ["一二"], {}) == [["二一"]]
    assert pauses == [2.0, 2.0]
    service.answers += [busy] * 5
    with pytest.raises(PegasusError, match=r"503: too many texts wait$"):
        client.ask(client.over_http(service.url, None, 5), ["一二"], {})
    assert service.answers == []


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (
            422,
            {"error": {"code": "x", "message": "too many", "field": "data.0"}},
            r"answered 422: too many \(data.0\)$",
        ),
        (502, b"<html>", "answered 502: <html>$"),
        (404, b"", "answered 404: nothing$"),
        (200, b"<html>", "the answer is not a JSON object: b'<html>'"),
        (200, {"results": []}, "the answer has no title for each text"),
        (200, {"result": []}, "the answer has no title for each text"),
        (200, {"result": 7}, "the answer has no title for each text"),
    ],
)
def test_what_is_no_title_is_told(service, status, answer, message):
    service.answers.append((status, {}, answer))
    with pytest.raises(PegasusError, match=message):
        client.ask(client.over_http(service.url, None, 5), ["文"], {})


def test_a_service_that_is_not_there_and_wrong_flags_are_told(tmp_path):
    key = tmp_path / "key.txt"
    key.write_text("密钥\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(PegasusError, match=rf"no answer from {url}: .*refused; is the service running\?$"):
        client.main(["文", "--url", url])
    for flags, message in (
        (["文", "--url", "127.0.0.1:8080"], "url must look like http://127.0.0.1:8080, got 127.0.0.1:8080"),
        (["文", "--texts_per_request", "0"], "texts_per_request must be at least 1, got 0"),
        (["文", "--timeout", "0"], r"timeout must be above 0 and at most 1e\+06 seconds, got 0"),
        (["文", "--timeout", "1e300"], r"timeout must be above 0 and at most 1e\+06 seconds, got 1e\+300"),
        (["文", "--api_key_file", str(key)], rf"^api_key_file {re.escape(str(key))} must hold a key of ASCII"),
        (["文", "--input_file", "x.txt"], "give a text or --input_file, not both"),
    ):
        with pytest.raises(OptionError, match=message):
            client.main(flags)
    ran = run(sys.executable, DEPLOY / "client.py", input="题\n".encode("gbk"), text=False, encoding=None)
    assert (ran.returncode, ran.stderr) == (2, b"error: standard input:1: not UTF-8, convert the text first\n")


def test_a_sagemaker_endpoint_is_asked_by_boto3(service, monkeypatch, capsys):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", service.url)
    assert client.main(["一二三", "--endpoint_name", "pegasus", "--region", REGION, "--num_beams", "4"]) == 0
    assert capsys.readouterr().out == "三二一\n"
    path, headers, body = service.requests[0]
    assert (path, headers["Content-Type"]) == ("/endpoints/pegasus/invocations", "application/json")
    assert body == {"data": ["一二三"], "parameters": {"num_beams": 4}}
    said = json.dumps({"error": {"code": "out_of_range", "message": "too many beams", "field": "parameters.num_beams"}})
    refusal = {"Message": "Received client error (422)", "OriginalStatusCode": 422, "OriginalMessage": said}
    service.answers.append((424, {"x-amzn-ErrorType": "ModelError"}, refusal))
    with pytest.raises(PegasusError, match=r"^endpoint pegasus answered: too many beams \(parameters.num_beams\)$"):
        client.main(["一二三", "--endpoint_name", "pegasus", "--region", REGION])
