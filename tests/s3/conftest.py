"""The S3 server of this room: Ceph's gateway where it can be had, else moto's, and that is said aloud."""

import os
import uuid

import boto3
import pytest
from botocore.config import Config

from tests.s3 import ceph_gateway
from tests.s3.ceph_gateway import CephGateway
from tests.s3.fault_proxy import FaultProxy
from tests.s3.moto_gateway import MotoGateway
from tests.support.small_builds import build, write_data

BUCKET = "logitstore-tests"
NUM_SEQUENCES = 22
#: "ceph" or "moto" leaves no choice
CHOICE = os.environ.get("LOGITSTORE_S3_SERVER", "")
_SAID = pytest.StashKey[str]()


def _choose_server(folder):
    obstacle = "LOGITSTORE_S3_SERVER says so" if CHOICE == "moto" else ceph_gateway.try_to_install()
    if obstacle is None:
        return CephGateway(folder), "The S3 tests ran against a real server, Ceph's gateway."
    if CHOICE == "ceph":
        pytest.fail(f"Ceph's gateway was asked for, but {obstacle}")
    return MotoGateway(), f"NOTE: the S3 tests ran against moto, not against a real server: {obstacle}."


@pytest.fixture(scope="session")
def s3_server(request, tmp_path_factory):
    """A running server whose bucket is there, and AWS_ variables that lead to it."""
    server, said = _choose_server(tmp_path_factory.mktemp("server"))
    request.config.stash[_SAID] = said
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patched.delenv(name)
        patched.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patched.setenv("AWS_ACCESS_KEY_ID", server.key)
        patched.setenv("AWS_SECRET_ACCESS_KEY", server.secret)
        patched.setenv("AWS_REGION", "us-east-1")
        try:
            server.start()
            client_of(server).create_bucket(Bucket=BUCKET)
            yield server
        finally:
            server.stop()


def client_of(server):
    """Another client, to look at objects and to harm them."""
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


@pytest.fixture
def place(s3_server):
    """An address of its own for a test's store."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}/store"


@pytest.fixture
def bucket(s3_server):
    """The bucket through another client."""
    return Bucket(client_of(s3_server))


class Bucket:
    """The bucket as another client sees it; keys are given by the address of a store and a name in it."""

    def __init__(self, client):
        self.client = client

    @staticmethod
    def key(place, name):
        return f"{place.removeprefix(f's3://{BUCKET}/')}/{name}"

    def names(self, place):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self.key(place, ""))
        found = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return sorted(key.removeprefix(self.key(place, "")) for key in found)

    def read(self, place, name):
        return self.client.get_object(Bucket=BUCKET, Key=self.key(place, name))["Body"].read()

    def write(self, place, name, content):
        self.client.put_object(Bucket=BUCKET, Key=self.key(place, name), Body=content)

    def delete(self, place, name):
        self.client.delete_object(Bucket=BUCKET, Key=self.key(place, name))

    def contents(self, place):
        return {name: self.read(place, name) for name in self.names(place)}


@pytest.fixture
def proxy(s3_server, monkeypatch):
    """A proxy that the AWS_ variables lead to."""
    proxy = FaultProxy(s3_server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.close()


def pytest_terminal_summary(terminalreporter, config):
    if said := config.stash.get(_SAID, None):
        terminalreporter.write_line(said, yellow="NOTE" in said, bold=True)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """What the small builds read: six units."""
    return write_data(tmp_path_factory.mktemp("data"), NUM_SEQUENCES)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, data):
    """Such a build in a folder."""
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    build(path, data)
    return path


@pytest.fixture
def built(place, data):
    """Such a build in the bucket."""
    build(place, data)
    return place
