"""Environment variables that hold secrets, by the names that libraries read, and addresses that hold passwords."""

from typing import Final

from dcp_contract.storage_options import CREDENTIAL_KEYS

CREDENTIAL_ENV: Final = tuple(
    sorted(
        {key for keys in CREDENTIAL_KEYS.values() for key in keys}
        - {"AZURE_STORAGE_ACCOUNT_NAME", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"}
    )
)
"""Environment variables of stores' secrets that credentialsSecretRef brings."""
SECRET_ENV: Final = (
    "AWS_SECURITY_TOKEN", "AWS_TOKEN", "AZURE_PASSWORD", "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_CLIENT_SECRET", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY", "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_TOKEN", "COMET_API_KEY", "GITHUB_TOKEN", "GOOGLE_SERVICE_ACCOUNT",
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "NEPTUNE_API_TOKEN",
    "NGC_API_KEY", "VAULT_TOKEN", "WANDB_API_KEY",
)  # fmt: skip
"""Other variables that are secrets wherever they are used, by the names that their libraries read."""
PASSWORD_URL: Final = r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#@:\s]*:([^/?#@$\s]|\$[^(/?#@\s])[^/?#@\s]*@"  # noqa: S105 - a pattern
"""An address with a password in it; one that begins with $( is a reference to another variable."""
