"""A cluster of Dask on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client, LocalCluster


@contextmanager
def dask_cluster(workers: int) -> Iterator[tuple[Any, Any]]:
    """Yield the cluster, whose workers are processes that are restarted if killed, and a client."""
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=60
        ) as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client
