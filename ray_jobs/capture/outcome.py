"""What became of a capture: how much there is, and which records failed for good."""

from __future__ import annotations

from collections import Counter

import pyarrow
import pyarrow.compute as pc

from ray_jobs.capture.plan import Plan
from ray_jobs.capture.worker import COUNTS, counts_of, final_key, part_there
from stillhouse.run import Run
from stillhouse.signal.schema import write_table

FAILED = "capture/failed.parquet"

_COLUMNS = ["id", "index", "teacher", "fields", "error"]


def outcome(run: Run, plan: Plan) -> Counter[str]:
    """Count what the parts hold, and write what failed to RUN/capture/failed.parquet.

    Returns:
        What `COUNTS` names, over all parts; `failed` counts records, however many teachers failed at one.

    Raises:
        RuntimeError: a part that was written is not there.
    """
    total: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    found = []
    for part in range(plan.parts):
        table = part_there(run, final_key(part), plan.made_from)
        if table is None:
            raise RuntimeError(f"{run.uri}/{final_key(part)} was written, and is not there")
        total.update(counts_of(table))
        found.append(table.filter(pc.is_valid(table["error"])).select(_COLUMNS).replace_schema_metadata())
    failed = pyarrow.concat_tables(found)
    total["failed"] = len(pc.unique(failed["id"]))
    if total["failed"]:
        run.storage.write(FAILED, write_table(failed, {"holds": "records that failed for good"}))
    else:
        run.storage.delete(FAILED)
    return total
