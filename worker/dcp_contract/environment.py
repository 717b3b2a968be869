"""Names of the environment variables of a worker's pod, and the bytes that its Report may have."""

from typing import Final

TASK_ENV: Final = "DCP_TASK"
"""The Task as JSON."""
NODE_RANK_ENV: Final = "DCP_NODE_RANK"
"""Which pod of the attempt this is, from 0. Falls back to the Indexed Job's `JOB_COMPLETION_INDEX`."""
MASTER_ADDR_ENV: Final = "DCP_MASTER_ADDR"
"""Where rank 0 listens for the others: the DNS name of pod 0 in the attempt's headless Service."""
MASTER_PORT_ENV: Final = "DCP_MASTER_PORT"
TERMINATION_LOG_ENV: Final = "DCP_TERMINATION_LOG"
"""Where the Report goes. Default `/dev/termination-log`, which the kubelet copies into the pod's status."""
PROGRESS_SECONDS_ENV: Final = "DCP_PROGRESS_SECONDS"
"""Seconds between two progress lines of rank 0. Default 5."""
REPORT_LIMIT_ENV: Final = "DCP_REPORT_LIMIT"
"""Bytes that the Report may have, where the pod's containers are too many for REPORT_LIMIT."""
REPORT_LIMIT: Final = 4096
"""Bytes that a Report may have: what the kubelet reads of one container's termination message."""
POD_REPORTS_LIMIT: Final = 12 * 1024
"""Bytes of termination messages that the kubelet keeps per pod; each container's is cut at an equal share."""
CA_KEY: Final = "ca.crt"
"""Key of a credentials Secret with the authorities to trust, in PEM; not secret, but it comes with what is."""
CA_ENV: Final = "DCP_CA_CERT"
"""The same, as the launcher gets it; the ranks get a file of it by the name that S3's libraries know."""
CA_FILE_ENV: Final = "AWS_CA_BUNDLE"
CREDENTIALS_ENV: Final = "DCP_CREDENTIALS_SECRET"
"""Name of the Secret that a pod's credentials were to come from."""
