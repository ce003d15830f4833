"""The object store: S3, MinIO, SeaweedFS or a local folder behind one interface."""

from components.shared.object_store.backend import StoredObject
from components.shared.object_store.store import Store, open_store

__all__ = ["Store", "StoredObject", "open_store"]
