"""Run minilm.yaml against an S3 server that lives as long as this program: `python examples/minilm_s3.py`.

The server is moto's: right for trying things out, and no measure of speed.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import boto3
from moto.server import ThreadedMotoServer

HERE: Final = Path(__file__).resolve().parent
BUCKET: Final = "dcp-examples"


def main() -> int:
    """Return the exit code of `dcp run`: 0 if the loaded model's sentence embeddings are the original's."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "example",
        "AWS_SECRET_ACCESS_KEY": "example",
        "AWS_REGION": "us-east-1",
        "HF_HUB_OFFLINE": "1",
    }
    try:
        boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_REGION"],
        ).create_bucket(Bucket=BUCKET)
        command = [sys.executable, "-m", "dcp_operator.cli.app", "run", "--verbose", "-f", str(HERE / "minilm.yaml")]
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - the project's own program
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
