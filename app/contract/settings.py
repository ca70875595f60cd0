"""Settings that gateway, webhooks and workers all read: where the queue and the pictures are, and how each is heard of.

Their own stand in app/settings.py and worker/settings.py. Knows what a value may be; refuses to know what is done with
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.contract.common.environment import PREFIX
from app.contract.objects.store import StoreOptions, as_storage_url
from app.contract.redis.url import RedisUrl


class SharedSettings(BaseSettings):
    """Environment prefix DARKROOM_. A process reads them once, at its start."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", allow_inf_nan=False
    )

    redis_url: RedisUrl = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias=AliasChoices("DARKROOM_REDIS_URL", "REDIS_URL"),
        description="Where the queue is. redis://, rediss://, unix://, or redis+sentinel://host:port,host:port/service/0",
    )
    redis_durability: Literal["require", "ignore"] = Field(
        default="require", description="`ignore` serves on a Redis that may forget accepted jobs"
    )
    storage_url: Annotated[str, AfterValidator(as_storage_url)] = Field(
        default_factory=lambda: (Path.cwd() / "data" / "pictures").as_uri(),
        description="Where pictures are. A folder, file:///folder, s3://bucket/prefix, gs://, az://",
    )
    storage_endpoint: str | None = Field(default=None, description="S3-compatible server, if it is not AWS")
    storage_region: str | None = Field(default=None, description="Region of the bucket")
    storage_access_key_id: str | None = Field(default=None, description="AWS_ACCESS_KEY_ID works as well")
    storage_secret_access_key: SecretStr | None = Field(default=None, description="AWS_SECRET_ACCESS_KEY works as well")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severe log line")
    metrics_host: str = Field(default="127.0.0.1", description="Address of the metrics ports")

    def store_options(self) -> StoreOptions:
        """The storage options as `open_store` takes them."""
        secret = self.storage_secret_access_key
        return StoreOptions(
            endpoint=self.storage_endpoint,
            region=self.storage_region,
            access_key_id=self.storage_access_key_id,
            secret_access_key=None if secret is None else secret.get_secret_value(),
        )
