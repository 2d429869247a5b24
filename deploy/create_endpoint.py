"""Make, move or remove a SageMaker endpoint: `python deploy/create_endpoint.py --endpoint_ecr_image_path … --role …`.

SageMaker's models and endpoint configurations cannot be changed. So each is named after the endpoint and a digest of
its own options: the same options find what is there, others make a new version beside it, and `--update` moves the
endpoint from one to another without a pause, forwards or back.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from t5_pegasus import cli
from t5_pegasus.config import option, require
from t5_pegasus.errors import PegasusError

_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?"
    r"/(?P<repository>[a-z0-9][a-z0-9._/-]+?)(:(?P<tag>[\w][\w.-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_MODEL_DATA = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<key>.+\.tar\.gz)")
_S3_FOLDER = re.compile(r"s3://[^/]+(/.*)?")
_KMS_KEY = re.compile(r"[a-zA-Z0-9:/_-]{1,2048}")
_SUBNETS = re.compile(r"subnet-[0-9a-z]+(,subnet-[0-9a-z]+){0,15}")
_SECURITY_GROUPS = re.compile(r"sg-[0-9a-z]+(,sg-[0-9a-z]+){0,4}")
_SETTLED = ("InService", "Failed", "OutOfService", "UpdateRollbackFailed")
_VARIANT = "AllTraffic"
# Of `update_endpoint`: the number of machines stays what it has become, and data capture follows the configuration.
_KEEP_COUNT = {
    "RetainAllVariantProperties": True,
    "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DataCaptureConfig"}],
}
_DIGEST = 12  # characters in the name of a version
_LONGEST_NAME = 63 - 1 - _DIGEST  # so that the versions' names, too, are within SageMaker's limit
_DENIED = ("403", "AccessDenied", "AccessDeniedException")
_UNSEEN = "the scaling of {}, if it has any, is left as it is"
_POLL_SECONDS = 10.0
_TELL_SECONDS = 60.0  # between lines that say the same, where they cannot overwrite each other


def _parts(pattern: re.Pattern[str], text: str | None) -> dict[str, str]:
    """Return the named groups of a pattern that fits the whole text, none if it does not fit."""
    match = pattern.fullmatch(text or "")
    return match.groupdict("") if match else {}


@dataclasses.dataclass(frozen=True)
class DeploymentConfig:
    """What is deployed, on what, and how it scales."""

    endpoint_name: str = option("pegasus", "name of the endpoint")
    endpoint_ecr_image_path: str | None = option(None, "image in ECR, as deploy/build_and_push.sh prints it")
    instance_type: str = option("ml.g4dn.8xlarge", "machine that serves")
    instance_count: int | None = option(None, "machines to begin with; min_capacity if not given")
    role: str | None = option(None, "role that SageMaker takes on, by name or ARN: reads the image and the model")
    region: str | None = option(None, "region; that of the image, or of `aws configure`, if not given")
    model_data_url: str | None = option(None, "model.tar.gz in S3; the model in the image if not given")
    serve_flags: str | None = option(None, "flags of serve.py, as in --serve_flags='--num_beams 4 --workers 2'")
    data_capture_s3_uri: str | None = option(None, "folder in S3 for requests and answers; none are kept if not given")
    data_capture_percentage: int = option(100, "share of the requests that is kept")
    data_capture_kms_key_id: str | None = option(None, "KMS key that encrypts them; the bucket's own if not given")
    kms_key_id: str | None = option(None, "KMS key that encrypts the machines' disks, where they are EBS volumes")
    subnets: str | None = option(None, "subnets of a VPC that the containers are in, with commas; with security_groups")
    security_groups: str | None = option(None, "security groups of the containers there, with commas")
    enable_network_isolation: bool = option(False, "let the containers call nobody; the service needs not to")
    min_capacity: int = option(1, "least machines")
    max_capacity: int | None = option(None, "most machines; if given, their number follows the load")
    target_invocations: float = option(100.0, "requests a minute and machine that scaling aims at")
    wait_minutes: float = option(45.0, "longest wait for SageMaker")
    update: bool = option(False, "move an endpoint that is there to these options")
    delete: bool = option(False, "remove the endpoint, its models and configurations")

    def __post_init__(self) -> None:
        """Raise OptionError for a value that SageMaker would refuse, or refuse only after minutes."""
        require(
            re.fullmatch(rf"(?=.{{1,{_LONGEST_NAME}}}$)[a-zA-Z0-9](-?[a-zA-Z0-9])*", self.endpoint_name),
            f"endpoint_name must be at most {_LONGEST_NAME} letters, digits and single hyphens",
            self.endpoint_name,
        )
        require(not (self.update and self.delete), "update and delete exclude each other", "both")
        require(0 < self.wait_minutes < math.inf, "wait_minutes must be above 0", self.wait_minutes)
        if self.delete:
            return
        require(
            _IMAGE.fullmatch(self.endpoint_ecr_image_path or ""),
            "endpoint_ecr_image_path must look like 123456789012.dkr.ecr.us-east-1.amazonaws.com/t5-pegasus:latest",
            self.endpoint_ecr_image_path,
        )
        require(self.role, "role must be the name or the ARN of a role", self.role)
        machine = re.fullmatch(r"ml\.[a-z0-9-]+\.[a-z0-9]+", self.instance_type)
        require(machine, "instance_type must look like ml.g4dn.8xlarge", self.instance_type)
        url = self.model_data_url
        require(url is None or _MODEL_DATA.fullmatch(url), "model_data_url must look like s3://bucket/x.tar.gz", url)
        uri, share = self.data_capture_s3_uri, self.data_capture_percentage
        require(uri is None or _S3_FOLDER.fullmatch(uri), "data_capture_s3_uri must look like s3://bucket/folder", uri)
        require(1 <= share <= 100, "data_capture_percentage must be from 1 to 100", share)
        for name in ("kms_key_id", "data_capture_kms_key_id"):
            key = getattr(self, name)
            require(key is None or _KMS_KEY.fullmatch(key), f"{name} must be the id, ARN or alias/… of a KMS key", key)
        subnets, groups = self.subnets, self.security_groups
        rule = "subnets must look like subnet-0a1b,subnet-2c3d, 16 at most"
        require(subnets is None or _SUBNETS.fullmatch(subnets), rule, subnets)
        rule = "security_groups must look like sg-0a1b,sg-2c3d, 5 at most"
        require(groups is None or _SECURITY_GROUPS.fullmatch(groups), rule, groups)
        rule = "subnets and security_groups must be given together"
        require((subnets is None) == (groups is None), rule, f"only {subnets or groups}")
        rule = "data_capture_kms_key_id needs data_capture_s3_uri"
        require(uri is not None or self.data_capture_kms_key_id is None, rule, self.data_capture_kms_key_id)
        least, most = self.min_capacity, self.max_capacity
        require(least >= 1, "min_capacity must be at least 1", least)
        require(most is None or most >= least, f"max_capacity must be at least min_capacity ({least})", most)
        rule = "instance_count must be from min_capacity to max_capacity"
        require(least <= self.count <= (most or math.inf), rule, self.count)
        invocations = self.target_invocations
        require(0 < invocations < math.inf, "target_invocations must be above 0", invocations)

    @property
    def count(self) -> int:
        """Machines that the endpoint begins with."""
        return self.min_capacity if self.instance_count is None else self.instance_count

    @property
    def scaling(self) -> tuple[int, int, float] | None:
        """Least and most machines, and requests a minute and machine; None where the number is fixed."""
        return None if self.max_capacity is None else (self.min_capacity, self.max_capacity, self.target_invocations)


def main(argv: Sequence[str] | None = None) -> int:
    """Bring the endpoint to the state that the flags ask for, and say what it is."""
    parser = cli.make_parser("Make, move or remove a SageMaker endpoint that serves titles.")
    cli.add_flags(parser, DeploymentConfig)
    config = cli.config_from(parser.parse_args(argv), DeploymentConfig)
    with _aws_session(config) as session:
        if config.delete:
            delete(session, config)
        else:
            deploy(session, config)
    return 0


@contextlib.contextmanager
def _aws_session(config: DeploymentConfig) -> Iterator[Any]:
    """Yield a boto3 session in the region; what AWS refuses becomes a PegasusError. boto3 is needed from here on."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise PegasusError("boto3 is not installed: `pip install boto3`") from error
    image = _parts(_IMAGE, config.endpoint_ecr_image_path)
    try:
        yield boto3.Session(region_name=config.region or image.get("region"))
    except (BotoCoreError, ClientError) as error:
        raise PegasusError(f"AWS: {error}") from error


def deploy(session: Any, config: DeploymentConfig) -> None:
    """Make the endpoint, or move it where `config.update` allows; nothing is done where it is as asked for.

    Raises PegasusError where it exists with other options, fails, or takes longer than `config.wait_minutes`.
    """
    sagemaker, name = session.client("sagemaker"), config.endpoint_name
    current = _settle(sagemaker, config)
    if current is not None and current["EndpointStatus"] != "InService":
        raise PegasusError(f"endpoint {name} is {_state(current)}: remove it with --delete, then make it anew")
    model = model_request(session, config)
    configuration = configuration_request(config, model["ModelName"])
    wanted, scaling = configuration["EndpointConfigName"], None
    # Only who wants scaling needs the rights for it, and is told before anything is made that they are missing.
    with _where_allowed(_UNSEEN.format(name)) if not config.scaling else contextlib.nullcontext():
        scaling = current_scaling(session, name)
    if current is not None:
        changes = [("configuration", current["EndpointConfigName"], wanted), ("scaling", scaling, config.scaling)]
        differences = [f"{what} {old or 'none'}, not {new or 'none'}" for what, old, new in changes if old != new]
        if not differences:
            print(f"endpoint {name} is in service already, with configuration {wanted}")
            return
        # An endpoint without a scaling policy, as after a run that was cut short, is only completed.
        completes = config.scaling and current["EndpointConfigName"] == wanted and not (scaling and scaling[2])
        if not (config.update or completes):
            raise PegasusError(f"endpoint {name} has {' and '.join(differences)}: --update moves it")
    _make(sagemaker.describe_model, sagemaker.create_model, "ModelName", model)
    _make(sagemaker.describe_endpoint_config, sagemaker.create_endpoint_config, "EndpointConfigName", configuration)
    scaling_now = scaling
    if current is None:
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=wanted)
    elif current["EndpointConfigName"] != wanted:
        _move(session, config, wanted, scaling)
        scaling_now = None
    try:
        reached = _settle(sagemaker, config)
    except BaseException:
        if scaling_now != config.scaling or scaling_now != scaling:
            now, was, wished = (each or "none" for each in (scaling_now, scaling, config.scaling))
            print(f"scaling is {now}, was {was}: this command again makes it {wished}", file=sys.stderr)
        raise
    arrived = reached is not None and (reached["EndpointStatus"], reached["EndpointConfigName"]) == (
        "InService",
        wanted,
    )
    goal = config.scaling if arrived else scaling
    if reached is not None and reached["EndpointStatus"] == "InService" and goal != scaling_now:
        set_scaling(session, name, goal)
    if not arrived:
        raise PegasusError(f"endpoint {name} did not come to configuration {wanted}: it is {_state(reached)}")
    print(f"endpoint {name} is in service in {session.region_name}, with configuration {wanted}; try it:")
    print(f"python deploy/client.py --endpoint_name {name} --region {session.region_name} '正文……'")


def _move(session: Any, config: DeploymentConfig, wanted: str, scaling: tuple[int, int, float] | None) -> None:
    """Begin to move the endpoint to a configuration, with scaling off; where AWS refuses, everything is as before.

    SageMaker does not change the type of machines whose number follows the load. That number is kept: it is not to fall
    back to the first one in the middle of a busy day.
    """
    name = config.endpoint_name
    if scaling:
        set_scaling(session, name, None)
    try:
        session.client("sagemaker").update_endpoint(
            EndpointName=name, EndpointConfigName=wanted, **(_KEEP_COUNT if scaling and config.scaling else {})
        )
    except BaseException:
        if scaling:
            set_scaling(session, name, scaling)
        raise


def delete(session: Any, config: DeploymentConfig) -> None:
    """Remove the endpoint with every version of its configuration and model; what is gone already is no error."""
    sagemaker, name = session.client("sagemaker"), config.endpoint_name
    with _where_allowed(_UNSEEN.format(name)):
        if current_scaling(session, name):
            set_scaling(session, name, None)
    if _settle(sagemaker, config) is not None:
        sagemaker.delete_endpoint(EndpointName=name)
        if (left := _settle(sagemaker, config)) is not None:
            raise PegasusError(f"endpoint {name} was not deleted: it is {_state(left)}")
        print(f"deleted endpoint {name}")
    version = re.compile(rf"{name}-[0-9a-f]{{{_DIGEST}}}")
    for kind, operation, items, key in (
        ("configuration", "endpoint_config", "EndpointConfigs", "EndpointConfigName"),
        ("model", "model", "Models", "ModelName"),
    ):
        pages = sagemaker.get_paginator(f"list_{operation}s").paginate(NameContains=name)
        for found in [item[key] for page in pages for item in page[items] if version.fullmatch(item[key])]:
            getattr(sagemaker, f"delete_{operation}")(**{key: found})
            print(f"deleted {kind} {found}")
    print(f"no endpoint {name} is left")


def model_request(session: Any, config: DeploymentConfig) -> dict[str, Any]:
    """Return what `create_model` is called with."""
    container = {"Image": find_image(session, config)}
    data_version = ""
    if config.model_data_url:
        container["ModelDataUrl"] = config.model_data_url
        data_version = find_data(session, config.model_data_url)
    environment = {"SERVE_FLAGS": config.serve_flags} if config.serve_flags else {}
    request: dict[str, Any] = {
        "ExecutionRoleArn": find_role(session, str(config.role)),
        "PrimaryContainer": {**container, "Environment": environment},
    }
    if config.subnets and config.security_groups:
        groups, subnets = config.security_groups.split(","), config.subnets.split(",")
        request["VpcConfig"] = {"SecurityGroupIds": groups, "Subnets": subnets}
    if config.enable_network_isolation:
        request["EnableNetworkIsolation"] = True
    return {"ModelName": version_name(config.endpoint_name, [request, data_version]), **request}


def configuration_request(config: DeploymentConfig, model_name: str) -> dict[str, Any]:
    """Return what `create_endpoint_config` is called with."""
    variant = {
        "VariantName": _VARIANT,
        "ModelName": model_name,
        "InstanceType": config.instance_type,
        "InitialInstanceCount": config.count,
    }
    request: dict[str, Any] = {"ProductionVariants": [variant]}
    if config.kms_key_id:
        request["KmsKeyId"] = config.kms_key_id
    if config.data_capture_s3_uri:
        request["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": config.data_capture_percentage,
            "DestinationS3Uri": config.data_capture_s3_uri,
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json", "application/jsonlines"]},
        }
        if config.data_capture_kms_key_id:
            request["DataCaptureConfig"]["KmsKeyId"] = config.data_capture_kms_key_id
    return {"EndpointConfigName": version_name(config.endpoint_name, request), **request}


def version_name(endpoint_name: str, options: Any) -> str:
    """Return the name for what is made with these options: always the same for the same."""
    text = json.dumps(options, sort_keys=True, ensure_ascii=False)
    return f"{endpoint_name}-{hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]}"


def find_image(session: Any, config: DeploymentConfig) -> str:
    """Return the image under its digest, so that a tag that was pushed anew is a new version.

    Raises PegasusError where there is none: SageMaker would say so after minutes.
    """
    path = str(config.endpoint_ecr_image_path)
    image = _parts(_IMAGE, path)
    if image["digest"]:
        return path
    tag = image["tag"] or "latest"
    ecr = session.client("ecr", region_name=image["region"])
    found = _look_up(
        f"image {path}",
        "push it with deploy/build_and_push.sh",
        ecr.describe_images,
        registryId=image["account"],
        repositoryName=image["repository"],
        imageIds=[{"imageTag": tag}],
    )
    bare = path.removesuffix(f":{tag}")
    return f"{bare}@{found['imageDetails'][0]['imageDigest']}" if found else f"{bare}:{tag}"


def find_data(session: Any, url: str) -> str:
    """Return what tells the contents at an S3 address from others, "" where we may not know."""
    address = _parts(_MODEL_DATA, url)
    found = _look_up(
        f"model {url}",
        "copy it there with `aws s3 cp`",
        session.client("s3").head_object,
        Bucket=address["bucket"],
        Key=address["key"],
    )
    return str(found["ETag"]) if found else ""


def find_role(session: Any, role: str) -> str:
    """Return the ARN of a role given by ARN or name."""
    return role if role.startswith("arn:") else str(session.client("iam").get_role(RoleName=role)["Role"]["Arn"])


def current_scaling(session: Any, endpoint_name: str) -> tuple[int, int, float] | None:
    """Return the scaling of an endpoint, as `DeploymentConfig.scaling` has it."""
    scaling, resource = session.client("application-autoscaling"), _scaled(endpoint_name)
    namespace, identifier = resource["ServiceNamespace"], resource["ResourceId"]
    targets = scaling.describe_scalable_targets(ServiceNamespace=namespace, ResourceIds=[identifier])
    if not targets["ScalableTargets"]:
        return None
    target = targets["ScalableTargets"][0]
    policies = scaling.describe_scaling_policies(ServiceNamespace=namespace, ResourceId=identifier)["ScalingPolicies"]
    configuration = "TargetTrackingScalingPolicyConfiguration"
    aims = [policy[configuration]["TargetValue"] for policy in policies if configuration in policy]
    return target["MinCapacity"], target["MaxCapacity"], aims[0] if aims else 0.0


def set_scaling(session: Any, endpoint_name: str, wanted: tuple[int, int, float] | None) -> None:
    """Let the number of machines follow the load, or stay as it is for None."""
    scaling, resource = session.client("application-autoscaling"), _scaled(endpoint_name)
    if wanted is None:
        scaling.deregister_scalable_target(**resource)
        return
    least, most, invocations = wanted
    scaling.register_scalable_target(**resource, MinCapacity=least, MaxCapacity=most)
    scaling.put_scaling_policy(
        **resource,
        PolicyName=f"{endpoint_name}-invocations",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": invocations,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        },
    )


def _scaled(endpoint_name: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint_name}/variant/{_VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def _settle(sagemaker: Any, config: DeploymentConfig) -> dict[str, Any] | None:
    """Wait until SageMaker is done with the endpoint and return its description, None where there is none."""
    name, start = config.endpoint_name, time.monotonic()
    overwrite = sys.stderr.isatty()
    told, told_at = "", 0.0
    while True:
        found = _describe(sagemaker.describe_endpoint, EndpointName=name)
        status = "gone" if found is None else found["EndpointStatus"]
        seconds = time.monotonic() - start
        done = found is None or status in _SETTLED
        # Nothing is told of an endpoint that is found settled.
        if (told or not done) and (overwrite or status != told or seconds - told_at >= _TELL_SECONDS):
            line = f"{name}: {status} after {seconds:.0f} s"
            print(f"\r{line:<40}" if overwrite else line, file=sys.stderr, end="\n" if done or not overwrite else "")
            told, told_at = status, seconds
        if done:
            return found
        if seconds > 60 * config.wait_minutes:
            raise PegasusError(f"endpoint {name} is still {status} after {config.wait_minutes:g} minutes")
        time.sleep(_POLL_SECONDS)


def _state(endpoint: dict[str, Any] | None) -> str:
    if endpoint is None:
        return "gone"
    reason = endpoint.get("FailureReason")
    return f"{endpoint['EndpointStatus']}, with configuration {endpoint['EndpointConfigName']}" + (
        f" ({reason})" if reason else ""
    )


def _make(describe: Callable[..., Any], create: Callable[..., Any], key: str, request: dict[str, Any]) -> None:
    """Create what has a name that stands for its contents, unless it is there."""
    if _describe(describe, **{key: request[key]}) is None:
        create(**request)
        print(f"made {request[key]}", file=sys.stderr)


def _describe(describe: Callable[..., Any], **name: str) -> dict[str, Any] | None:
    """Return what `describe` tells, None where there is no such thing: SageMaker has one code for all errors."""
    from botocore.exceptions import ClientError

    try:
        return dict(describe(**name))
    except ClientError as error:
        if "Could not find" in error.response["Error"].get("Message", ""):
            return None
        raise


def _look_up(what: str, remedy: str, describe: Callable[..., Any], **address: Any) -> dict[str, Any] | None:
    """Return what `describe` tells; None, saying so, where we lack the right that the endpoint's role may well have."""
    from botocore.exceptions import ClientError

    with _where_allowed(f"{what} cannot be looked up: should it change, that is not noticed"):
        try:
            return dict(describe(**address))
        except ClientError as error:
            missing = ("404", "NoSuchBucket", "NoSuchKey", "ImageNotFoundException", "RepositoryNotFoundException")
            if error.response["Error"]["Code"] in missing:
                raise PegasusError(f"there is no {what}: {remedy}") from error
            raise
    return None


@contextlib.contextmanager
def _where_allowed(otherwise: str) -> Iterator[None]:
    """Do what is done within, or say what follows where we lack the right to."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in _DENIED:
            raise
        print(f"{otherwise} ({error.response['Error']['Code']})", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
