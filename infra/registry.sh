# The account's registry of images, for the scripts that push one. Sets region and registry; to be sourced.

fail() {
    printf '%s\n' "$*" >&2
    exit 2
}
command -v aws >/dev/null || fail "Please install the AWS CLI, and log in to the account."
region=${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region)}} ||
    fail "Please set AWS_REGION and AWS_DEFAULT_REGION to the region of the stack."
# Every version of the AWS CLI reads one of the two.
export AWS_REGION=$region AWS_DEFAULT_REGION=$region
account=$(aws sts get-caller-identity --query Account --output text) || fail "Please log in to the AWS account."
registry="$account.dkr.ecr.$region.amazonaws.com"

# Make the repository on first use; its tags cannot be moved to another image.
make_repository() { # name
    aws ecr describe-repositories --repository-names "$1" >/dev/null 2>&1 ||
        aws ecr create-repository --repository-name "$1" \
            --image-tag-mutability IMMUTABLE --image-scanning-configuration scanOnPush=true >/dev/null
}

# Name a build of a version, as no other is named.
new_tag() { # version
    printf '%s-%s' "$1" "$(date -u +%Y%m%d%H%M%S)"
}

# Print an image's name by digest, which is what the template's parameter GatewayImage takes.
print_image() { # repository, tag
    local digest
    digest=$(aws ecr describe-images --repository-name "$1" --image-ids "imageTag=$2" \
        --query 'imageDetails[0].imageDigest' --output text)
    printf '%s/%s@%s\n' "$registry" "$1" "$digest"
}
