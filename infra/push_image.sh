#!/usr/bin/env bash
# Push the gateway's image to the registry of the AWS account that the AWS CLI is set up for:
#   infra/push_image.sh PROGRAM REPOSITORY VERSION
# The repository is made on first use; its tags cannot be moved to another image. Prints the image's name by digest,
# which is what the template's parameter GatewayImage takes.
set -euo pipefail
program=$1 repository=$2 version=$3

fail() {
    printf '%s\n' "$*" >&2
    exit 2
}
command -v aws >/dev/null || fail "Please install the AWS CLI, and log in to the account."
region=${AWS_DEFAULT_REGION:-$(aws configure get region)} || fail "Please set AWS_DEFAULT_REGION."
account=$(aws sts get-caller-identity --query Account --output text) || fail "Please log in to the AWS account."
registry="$account.dkr.ecr.$region.amazonaws.com"

aws ecr describe-repositories --region "$region" --repository-names "$repository" >/dev/null 2>&1 ||
    aws ecr create-repository --region "$region" --repository-name "$repository" \
        --image-tag-mutability IMMUTABLE --image-scanning-configuration scanOnPush=true >/dev/null
aws ecr get-login-password --region "$region" | "$program" login --username AWS --password-stdin "$registry" >&2
tag="$version-$(date -u +%Y%m%d%H%M%S)"
"$program" tag "$repository:$version" "$registry/$repository:$tag"
"$program" push "$registry/$repository:$tag" >&2
digest=$(aws ecr describe-images --region "$region" --repository-name "$repository" --image-ids "imageTag=$tag" \
    --query 'imageDetails[0].imageDigest' --output text)
printf '%s/%s@%s\n' "$registry" "$repository" "$digest"
