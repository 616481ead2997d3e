#!/usr/bin/env bash
# Push the gateway's image to the registry of the AWS account that the AWS CLI is set up for:
#   infra/push_image.sh PROGRAM REPOSITORY VERSION
# Prints the image's name by digest, which is what the template's parameter GatewayImage takes.
set -euo pipefail
program=$1 repository=$2 version=$3
# shellcheck source=infra/registry.sh
. "$(dirname "${BASH_SOURCE[0]}")/registry.sh"

make_repository "$repository"
aws ecr get-login-password | "$program" login --username AWS --password-stdin "$registry" >&2
tag=$(new_tag "$version")
"$program" tag "$repository:$version" "$registry/$repository:$tag"
"$program" push "$registry/$repository:$tag" >&2
print_image "$repository" "$tag"
