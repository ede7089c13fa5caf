"""The faults of retrieves, which remember what happened before: what is left out, refused, dropped, grown or
changed. Files that grow or change live in a folder of our own; those we were given are never touched.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vna.identity import safe_name
from vna.simulated_pacs.answering import Answers
from vna.simulated_pacs.changing import changed_copy
from vna.simulated_pacs.faults import Faults
from vna.simulated_pacs.folder import Folder, Stored


class Misbehaviour:
    """What goes wrong in retrieves, over the life of one simulated PACS; safe for several threads."""

    def __init__(self, faults: Faults, answers: Answers, folder: Folder, changes: Path) -> None:
        self.faults = faults
        self._answers, self._folder, self._changes = answers, folder, changes
        self._lock = threading.Lock()
        self._attempts = self._done = 0
        self._dropped = False
        self._grown: Counter[str] = Counter()
        self._changed: set[str] = set()

    def plan(self, wanted: Sequence[Stored]) -> list[Stored]:
        """What is really sent of what was asked for; the rest is claimed as done."""
        left_out: set[str] = set()
        fewer = self.faults.number("send-fewer", 1)
        for study in {stored.study_instance_uid for stored in wanted}:
            uids = [stored.sop_instance_uid for stored in self._answers.of_study(study)]
            if "false-success" in self.faults and self.faults.text("false-success", study) == study:
                left_out.update(uids)
            if fewer:
                left_out.update(uids[-fewer:])
        return [stored for stored in wanted if stored.sop_instance_uid not in left_out]

    def refuses_this_one(self) -> bool:
        """Whether the next sub-operation is the Nth."""
        nth = self.faults.number("refuse-nth")
        with self._lock:
            self._attempts += 1
            return bool(nth) and self._attempts % nth == 0

    def drops_now(self, done: int) -> bool:
        """Whether the associations break off here, after `done` sub-operations of this retrieve."""
        if "drop-after" not in self.faults:
            return False
        after = self.faults.number("drop-after")
        if self.faults.option("drop-after") == "always":
            return done >= after
        with self._lock:
            if self._dropped or self._done < after:
                return False
            self._dropped = True
            return True

    def after_suboperation(self) -> None:
        """Count one that was tried."""
        with self._lock:
            self._done += 1

    def after_retrieve(self, sent: Sequence[Stored]) -> None:
        """What happens to the studies that were just sent, before the requester hears the end."""
        if "change-content" in self.faults:
            for study in {stored.study_instance_uid for stored in sent}:
                self._change(study)

    def grow(self, study: str) -> None:
        """Let a study have one more instance, if the fault allows it one more."""
        if "grow-during-retrieve" not in self.faults:
            return
        with self._lock:
            if self._grown[study] >= self.faults.number("grow-during-retrieve", 1):
                return
            self._grown[study] += 1
            number = self._grown[study]
        instances = self._answers.of_study(study)
        if not instances:
            return
        digest = hashlib.sha256(f"{study}|grown|{number}".encode()).digest()
        uid = f"2.25.{int.from_bytes(digest[:16], 'big')}"
        path = self._changes / f"{safe_name(uid)}.dcm"
        changed_copy(
            instances[-1].path, path, {"SOPInstanceUID": uid, "InstanceNumber": str(len(instances) + 1)}
        )
        self._folder.add(path)

    def _change(self, study: str) -> None:
        with self._lock:
            if study in self._changed:
                return
            self._changed.add(study)
        changes = {"ImageComments": "Changed by the simulated PACS"}  # answered at no level
        if self.faults.text("change-content") != "silent":
            changes["StudyDescription"] = "Corrected"
        for stored in self._answers.of_study(study):
            path = self._changes / f"{safe_name(stored.sop_instance_uid)}.dcm"
            if path == stored.path:  # it grew before
                path = path.with_suffix(".changed.dcm")
            changed_copy(stored.path, path, changes)
            self._folder.add(path)
