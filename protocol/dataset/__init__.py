"""Instruction groups on disk: a manifest of one JSON object a line, and the audio in shards or in files beside it.

    {"group_id": "…", "instruction": "…", "reference": "…",
     "utterances": [{"speaker": "…", "audio": "xxh128:…", "duration_s": 1.8, "path": "shards/0.tar", "offset": 512, "size_bytes": 31876},
                    {"speaker": "text"}]}

A line holds the fields of `protocol.messages.InstructionGroup` and says where each audio lies, relative to the manifest: a range of bytes
in a shard, which is a plain tar file of FLAC members, or, with a `path` alone, a file of its own. Beside the manifests lies
``dataset.json`` (see `protocol.dataset.sidecar`); a manifest written by hand needs none.
"""

from protocol.audio import audio_hash
from protocol.dataset.dataset import DataSet, Groups, open_mixture
from protocol.dataset.lines import Location
from protocol.dataset.loose import ManifestWriter
from protocol.dataset.shards import ShardWriter, Stored
from protocol.dataset.writer import DataSetWriter, ManifestAppender

__all__ = [
    "DataSet",
    "DataSetWriter",
    "Groups",
    "Location",
    "ManifestAppender",
    "ManifestWriter",
    "ShardWriter",
    "Stored",
    "audio_hash",
    "open_mixture",
]
