"""Studies: what they are, how they are run and resumed, and what their results say."""

from ssmlab.studies.archive import pack_study, unpack_study
from ssmlab.studies.claims import Claim, Contrast
from ssmlab.studies.run import run_study
from ssmlab.studies.store import StudyResults, TrialRecord, load_results, open_store, study_status
from ssmlab.studies.study import Axis, Figure, Point, Row, Scale, Study, Trial

__all__ = [
    "Axis",
    "Claim",
    "Contrast",
    "Figure",
    "Point",
    "Row",
    "Scale",
    "Study",
    "StudyResults",
    "Trial",
    "TrialRecord",
    "load_results",
    "open_store",
    "pack_study",
    "run_study",
    "study_status",
    "unpack_study",
]
