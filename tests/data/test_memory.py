"""What a run holds in memory does not grow with its input."""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.gateway import fake_gateway, info
from tests.endurance import Client

WIDE: Final = 8192
ROWS: Final = 32_768
"""1 GB of float32."""


def test_a_large_file_of_one_row_group(tmp_path: Path) -> None:
    given = tmp_path / "in.parquet"
    row = np.random.default_rng(0).standard_normal((1024, WIDE)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(row.reshape(-1)), WIDE)
    schema = pa.schema([("activation_vector", column.type)])
    with pq.ParquetWriter(given, schema, compression="none", use_dictionary=False) as writer:
        table = pa.table({"activation_vector": column})
        writer.write_table(pa.concat_tables([table] * (ROWS // 1024)), row_group_size=ROWS)
    assert given.stat().st_size > 4 * WIDE * ROWS
    with fake_gateway() as gateway:
        gateway.served, gateway.keep = info(d_model=WIDE), False
        client = Client("verbalize", str(given), f"{tmp_path}/out.parquet", "--url", gateway.url, "--progress", "quiet")
        assert client.run() == 0
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == ROWS
    assert client.peak_mb < 500, client.peak_mb
