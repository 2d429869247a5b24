#!/usr/bin/env bash
# Build the image of deploy/Dockerfile and push it to Amazon ECR; the last line printed is the image's full name.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: deploy/build_and_push.sh [OPTION VALUE]... [-- DOCKER_BUILD_OPTION...]

  --repository NAME   repository in ECR, made if it is missing (default: t5-pegasus)
  --tag TAG           tag of the image (default: latest)
  --region REGION     region of the registry (default: that of `aws configure`)
  --account ID        account of the registry, 12 digits (default: that of `aws sts get-caller-identity`)
  --platform PLATFORM machine that the image is for (default: linux/amd64)
  --engine ENGINE     tensorflow, or onnx for an exported model (default: tensorflow)
  --device DEVICE     cpu or gpu (default: cpu)
  --model_dir DIR     model to have in the image, a folder of this repository (default: deploy/model)

Whatever follows -- goes to docker as it is, such as --build-arg PIP_INDEX_URL=https://… for a mirror.
TEXT
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

repository=t5-pegasus tag=latest region='' account='' platform=linux/amd64 engine=tensorflow device=cpu
model_dir=deploy/model
while (($#)); do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --repository | --tag | --region | --account | --platform | --engine | --device | --model_dir)
        (($# > 1)) && [[ -n $2 && $2 != --* ]] || fail "$1 needs a value (--help lists the options)"
        printf -v "${1#--}" '%s' "$2"
        shift 2
        ;;
    --)
        shift
        break
        ;;
    *) fail "unknown option $1 (--help lists the options)" ;;
    esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Told before a repository is made: Docker would refuse such an image after that.
[[ $repository =~ ^[a-z0-9]+([._/-]+[a-z0-9]+)*$ ]] ||
    fail "repository must be small letters and digits with . _ - / between them, got $repository"
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || fail "tag must be letters and digits with . _ - among them, got $tag"
for command in aws docker; do
    command -v "$command" >/dev/null || fail "$command is not installed"
done
# shellcheck disable=SC2012  # the names are ours: serve-ENGINE-DEVICE.txt
[[ -f requirements/serve-$engine-$device.txt ]] ||
    fail "no image for engine $engine on device $device; there are: $(ls requirements/serve-*.txt |
        sed 's/.*serve-\(.*\)-\(.*\)\.txt/\1 on \2/' | paste -sd, | sed 's/,/, /g')"
[[ $model_dir != /* && -d $model_dir ]] || fail "model_dir must be a folder of this repository, got $model_dir"
[[ $model_dir == deploy/model || -f $model_dir/config.json ]] ||
    fail "model_dir must hold config.json, vocab.txt and weights, or be an exported model, got $model_dir"
[[ -n $region ]] || region=$(aws configure get region) || fail "no region: give --region or run \`aws configure\`"
[[ $region =~ ^[a-z]{2}(-[a-z]+)+-[0-9]+$ ]] || fail "region must look like us-east-1, got $region"
[[ -n $account ]] || account=$(aws sts get-caller-identity --query Account --output text --region "$region") ||
    fail "no account: give --account or run \`aws configure\`"
[[ $account =~ ^[0-9]{12}$ ]] || fail "account must be 12 digits, got $account"

domain=amazonaws.com
[[ $region != cn-* ]] || domain=amazonaws.com.cn
registry=$account.dkr.ecr.$region.$domain
image=$registry/$repository:$tag
ecr=(aws ecr --region "$region")

# Asked for before the build, which takes minutes. Any other answer than "not found" is an error, and told as it is.
if ! answer=$("${ecr[@]}" describe-repositories --registry-id "$account" --repository-names "$repository" 2>&1); then
    [[ $answer == *RepositoryNotFoundException* ]] || fail "${answer//$'\n'/ }"
    printf 'making the repository %s\n' "$repository" >&2
    "${ecr[@]}" create-repository --registry-id "$account" --repository-name "$repository" \
        --image-scanning-configuration scanOnPush=true >/dev/null
fi

# SageMaker takes Docker's own manifests only: neither an attestation beside the image nor the OCI media types.
docker buildx build --file deploy/Dockerfile --platform "$platform" --provenance=false --output type=docker \
    --build-arg "ENGINE=$engine" --build-arg "DEVICE=$device" --build-arg "MODEL_DIR=$model_dir" \
    --tag "$image" "$@" . >&2
"${ecr[@]}" get-login-password | docker login --username AWS --password-stdin "$registry" >&2
docker push "$image" >&2
printf '%s\n' "$image"
