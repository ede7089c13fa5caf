"""DICOM messages over the network: associations, C-ECHO, C-FIND that never returns a cut list, C-MOVE, C-GET,
and the receiving side behind the DICOM server.

Every failure is a `PeerError` that names the peer and knows whether trying again may help. No database here:
the router and the receiver stand on this room.
"""

from vna.dimse.associations import associate, exchange, next_message, send
from vna.dimse.channel import StoreOutcome
from vna.dimse.contexts import ContextGroup, retrieve_groups
from vna.dimse.echoing import EchoAnswer, echo
from vna.dimse.finding import find_deeper_values, find_instances, find_studies
from vna.dimse.gate import SourceGate
from vna.dimse.getting import GetOutcome, get
from vna.dimse.index import HeldFile, HeldInstance, InstanceIndex, Query
from vna.dimse.moving import MoveOutcome, move
from vna.dimse.node import OurNode
from vna.dimse.sending import sending
from vna.dimse.service import receiving
from vna.dimse.status import unknown_callers_since

__all__ = [
    "ContextGroup",
    "EchoAnswer",
    "GetOutcome",
    "HeldFile",
    "HeldInstance",
    "InstanceIndex",
    "MoveOutcome",
    "OurNode",
    "Query",
    "SourceGate",
    "StoreOutcome",
    "associate",
    "echo",
    "exchange",
    "find_deeper_values",
    "find_instances",
    "find_studies",
    "get",
    "move",
    "next_message",
    "receiving",
    "retrieve_groups",
    "send",
    "sending",
    "unknown_callers_since",
]
