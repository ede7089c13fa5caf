"""What the spool's tests arrange: an open association and instances in it."""

import hashlib

from vna.spool import OpenAssociation, Spool

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def open_association(spool: Spool, calling_aet: str = "CT_1") -> OpenAssociation:
    return spool.open_association(
        calling_aet=calling_aet, called_aet="BACKUPDR", peer_address="127.0.0.1", listener="scp"
    )


def receive(
    association: OpenAssociation, sop_instance_uid: str, data: bytes = b"data set", syntax: str = EXPLICIT
):
    writer = association.begin(CT, sop_instance_uid, syntax, "CT_1")
    writer.write(data)
    return writer.commit()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
