"""Proof: what a source lists against what we hold, and what we hold against what lies on the disk."""

from vna.verification.copies import look_at_copy, recheck_copies
from vna.verification.studies import VerifiedStudy, verify_study
from vna.verification.units import UnitReport, orphans, verify_unit

__all__ = [
    "UnitReport",
    "VerifiedStudy",
    "look_at_copy",
    "orphans",
    "recheck_copies",
    "verify_study",
    "verify_unit",
]
