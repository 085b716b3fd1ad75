"""What an ingest would do, from headers, names and logs: no weight is read, nothing is written."""

from sedarchive.preview.plan import IngestPlan, RunPlan, plan_ingest
from sedarchive.preview.text import plan_text

__all__ = ["IngestPlan", "RunPlan", "plan_ingest", "plan_text"]
