"""The records that failed for good, with what was wrong."""

from __future__ import annotations

import pyarrow
import pyarrow.compute as pc

from ray_jobs.capture.plan import Plan
from ray_jobs.capture.worker import final_key
from stillhouse.run import Run
from stillhouse.signal.schema import read_table, write_table

FAILED = "capture/failed.parquet"

_COLUMNS = ["id", "index", "teacher", "fields", "error"]


def write_failed(run: Run, plan: Plan) -> int:
    """Write RUN/capture/failed.parquet from what the parts say, and return how many records it holds."""
    found = []
    for part in range(plan.parts):
        key = final_key(part)
        table = read_table(run.storage.read(key), name=key)
        found.append(table.filter(pc.is_valid(table["error"])).select(_COLUMNS).replace_schema_metadata())
    failed = pyarrow.concat_tables(found)
    if not failed.num_rows:
        run.storage.delete(FAILED)
        return 0
    run.storage.write(FAILED, write_table(failed, {"holds": "records that failed for good"}))
    return len(pc.unique(failed["id"]))
