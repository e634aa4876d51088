"""Log-probabilities under a frozen reference policy, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tandem.data.cached_groups import file_lock, keep_groups
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.machine import Machine, cache_folder
from tandem.models.devices import resolve_device, resolve_precision
from tandem.models.forward import GROUPS_PER_CHUNK, with_logprobs
from tandem.models.opening import open_policy
from tandem.runs.atomic_files import evict_oldest, mark_used
from tandem.runs.cache import cache_limit
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events
from tandem.runs.identity import describe_value, fingerprint


def reference_logprobs(
    policy: Checkpoint, groups: Groups, machine: Machine, events: Events | None = None
) -> Groups:
    """Return the groups with `logp` under a frozen reference policy.

    The column is kept in the cache folder (`TANDEM_CACHE`, by default ~/.cache/tandem) under the
    hash of model, data and precision, and found there by later runs, losses and epochs. Of
    several processes on a machine that need the same column, one computes and the others wait.
    Columns that were not used for longest are deleted when all of them exceed `TANDEM_CACHE_GB`
    (by default 20); the newest always stays.

    Raises:
        ConfigError: `TANDEM_CACHE_GB` is not a number of gigabytes.
    """
    found = (resolve_device(machine).type, str(resolve_precision(machine)))  # of `auto`
    key = fingerprint([policy.hash, groups.hash, describe_value(machine), found])
    path = cache_folder() / "reference" / f"{key}.parquet"
    limit = cache_limit()

    def columns() -> Iterator[Group]:
        trunk = open_policy(policy.path, replace(machine, lora=None), reference=True)
        read = with_logprobs(trunk, groups, machine.tokens)
        yield from read if events is None else _counted(read, len(groups), events)

    kept, _ = keep_groups(path, columns(), dict)
    mark_used(path)
    with file_lock(path):  # this column stays
        evict_oldest(path.parent.glob("*.parquet"), limit)
    return kept


def _counted(groups: Iterable[Group], total: int, events: Events) -> Iterator[Group]:
    for n, group in enumerate(groups, 1):
        yield group
        if n % GROUPS_PER_CHUNK == 0 or n == total:
            events.progress(n, total, "reference")
