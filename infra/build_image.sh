#!/usr/bin/env bash
# Build the gateway's image on AWS, where there is no Docker, and push it to the account's registry:
#   infra/build_image.sh REPOSITORY VERSION ARCHITECTURE [BASE]
# Of the working tree what is committed is built. The stack lenticular-image-ARCHITECTURE is made on first use: a project
# of CodeBuild, its role, log and bucket. Prints the image's name by digest, as infra/push_image.sh does.
set -euo pipefail
repository=$1 version=$2 architecture=$3 base=${4:-}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=infra/registry.sh
. infra/registry.sh

make_repository "$repository"
stack="lenticular-image-${architecture//_/-}"
aws cloudformation deploy --stack-name "$stack" --template-file infra/image.yaml --no-fail-on-empty-changeset \
    --capabilities CAPABILITY_IAM --parameter-overrides \
    "Repository=$repository" "Architecture=$architecture" ${base:+"Base=$base"} >&2

output() { # name
    aws cloudformation describe-stacks --stack-name "$stack" --output text \
        --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
}
source=$(mktemp --suffix .zip)
trap 'rm -f "$source"' EXIT
# What gateway/Dockerfile copies, and itself.
git archive --format zip --output "$source" HEAD gateway layers/codecs layers/core requirements
aws s3 cp --only-show-errors "$source" "s3://$(output SourceBucket)/source.zip"

tag=$(new_tag "$version")
build=$(aws codebuild start-build --project-name "$(output ProjectName)" --query build.id --output text \
    --environment-variables-override "name=TAG,value=$tag" "name=VERSION,value=$version")
printf 'Building %s; this takes about three minutes.\n' "$build" >&2
while status=$(aws codebuild batch-get-builds --ids "$build" --query 'builds[0].buildStatus' --output text) &&
    [ "$status" = IN_PROGRESS ]; do
    sleep 10
done
[ "$status" = SUCCEEDED ] || fail "The build ended with $status. Its log says why: CodeBuild, build $build."
print_image "$repository" "$tag"
