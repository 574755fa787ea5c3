"""Define the fixtures that all tests share."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.processes import run_cli

# Threads do not speed up small tensors, and they slow down several test processes at once. Set this before torch loads.
os.environ["OMP_NUM_THREADS"] = "1"
# Commands choose their number of threads. Threads that wait must not spin, because two test processes share the cores.
os.environ["GOMP_SPINCOUNT"] = "0"
# Hide GPUs, so that sums are the same on every machine.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

ACCESS_KEY = "AKIDTESTTESTTEST"
SECRET_KEY = "do-not-show/this+secret"  # noqa: S105  it opens nothing

# A slow example on a busy machine is not a failure.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.fixture(scope="session")
def soak_factor() -> int:
    """Return by how much to multiply the length of the fault tests: 1, or the factor that ``make soak`` sets."""
    return int(os.environ.get("RNNG_DISTILL_SOAK", "1"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real treebanks (gum, craft, masc) and BLiMP. Skip the test if there is no such folder."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RNNG_DISTILL_TREEBANKS", beside))
    if not folder.is_dir():
        pytest.skip("no real treebanks: RNNG_DISTILL_TREEBANKS names no folder of them")
    return folder


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the inputs of most commands: corpus, tokenizer.json, dataset, and a teacher of a few steps."""
    folder = tmp_path_factory.mktemp("small-world")
    run_cli("sample-corpus", folder / "corpus", "--num-sentences", 600)
    tokenizer = folder / "tokenizer.json"
    run_cli("train-tokenizer", folder / "corpus/train.txt", "--out", tokenizer, "--vocab-size", 600)
    splits = [part for s in ("train", "dev", "test") for part in (f"--{s}", folder / "corpus" / s)]
    run_cli("build-dataset", *splits, "--tokenizer", tokenizer, "--out", folder / "dataset")
    sizes = ["--embed-dim", 24, "--hidden-dim", 32, "--max-steps", 12, "--batch-tokens", 1024, "--threads", 1]
    run_cli("train-teacher", "--data", folder / "dataset", "--out", folder / "teacher", *sizes)
    return folder


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The URL of a bucket of moto's S3 server on this machine, reached over HTTP.

    Environment variables give the server and credentials.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        import s3fs

        s3fs.S3FileSystem(use_listings_cache=False).mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with two slow files. The second one forks this process, which has started no threads so far."""
    first = ("test_gpu_path.py", "test_fault_table.py")
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))
