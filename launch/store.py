"""The recipe's `store` section: where progress is kept, and where a run's products are published."""

from pydantic import Field

from components.shared.settings import Settings


class StoreSettings(Settings):
    """The object store. Credentials come from the environment or, on a cluster, from a secret; never from a recipe."""

    checkpoint_uri: str = Field(
        "", description="Where long stages keep their progress: s3://BUCKET/PREFIX or a folder; empty: nowhere."
    )
    minutes: float = Field(
        10.0, ge=0, description="Between checkpoints of exploration and RFT: what a killed pod does again, at most."
    )
    keep_days: float = Field(
        14.0, gt=0, description="Progress of a stage that never finished is removed after so long."
    )
    publish_uri: str = Field(
        "",
        description="Where the policy, the trajectories and the report of a run are published; empty: nowhere. Fixed "
        "when the pipeline is compiled, as are secret and endpoint.",
    )
    cache_generation: int = Field(
        0,
        ge=0,
        description="Count it up when earlier artifacts are gone or have moved, such as to another server under the "
        "same bucket name: no stage then takes them from the cache. Another bucket counts by itself.",
    )
    secret: str = Field(
        "",
        description="Kubernetes secret with accesskey and secretkey for the stages' pods; empty: their account's role.",
    )
    endpoint: str = Field("", description="URL of the object store for the stages' pods; empty: AWS.")
