"""What identifies training data, group by group, for a record that outlives them."""

from __future__ import annotations

from typing import Any

import numpy as np

from guda_lightning.data.datamodule import GroupDataModule
from guda_lightning.storage.files import sha256_json


def data_record(data: GroupDataModule) -> dict[str, Any]:
    """Hashes of the data and of each group, and how many samples they have, as JSON values.

    The hash of a group is that of the sorted hashes of its samples: of their names, and of what the model
    sees of them.
    """
    samples, grouping = data.sample_hashes, data.grouping
    members = grouping.membership()
    return {
        "data_hash": data.hash,
        "grouping_hash": grouping.hash,
        "input_shape": list(data.input_shape),
        "samples": len(samples),
        "groups": {
            name: {
                "samples": grouping.size(name),
                "sha256": sha256_json(sorted(samples[row] for row in np.flatnonzero(members[:, column]))),
            }
            for column, name in enumerate(grouping.names)
        },
    }
