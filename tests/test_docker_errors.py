"""What the Docker engine was reported to say of a container that there cannot be: one classified error."""

from __future__ import annotations

import pytest

from pytest_autotune.deploy.docker_errors import cause_of

# Others are provoked on an engine, in tests/test_deploy_docker.py.
REPORTED = {
    "https://github.com/docker/for-win/issues/9562": (
        "image missing",
        (
            "pull access denied for utils, repository does not exist or may require 'docker login': denied: requested access "
            "to the resource is denied"
        ),
    ),
    "https://github.com/docker/for-mac/issues/1114": (
        "port in use",
        (
            "driver failed programming external connectivity on endpoint serene_lalande (08bb0bd9684c): Error starting "
            "userland proxy: Bind for 0.0.0.0:49161 failed: port is already allocated."
        ),
    ),
    "https://github.com/docker-archive-public/docker.kitematic/issues/2295": (
        "infrastructure",
        "write /var/lib/docker/tmp/GetImageBlob872957069: no space left on device",
    ),
    "https://github.com/docker/hub-feedback/issues/2429": (
        "infrastructure",
        "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating and upgrading",
    ),
    "https://github.com/hiyouga/LlamaFactory/issues/5268": (
        "CUDA or driver",
        'could not select device driver "" with capabilities: [[gpu]]',
    ),
}


@pytest.mark.parametrize(("kind", "said"), REPORTED.values(), ids=REPORTED)
def test_the_kind_is_read_from_what_the_engine_says(kind, said):
    cause = cause_of(said, f"[autotune] {said}")
    assert (str(cause.kind), cause.message, cause.lines) == (kind, f"no container: {said}", (f"[autotune] {said}",))
    assert not cause.kind.finding  # an image is no setting that a search could learn of
