"""What identifies latent data is known before anything else has asked for them, as a replay does."""

from __future__ import annotations

from guda_lightning.data.hashes import data_record
from guda_lightning.latent import LatentDataModule
from toys import Coloured


def test_samples_have_hashes_before_they_are_read(data: LatentDataModule, pretrained: str) -> None:
    fresh = LatentDataModule(Coloured(), pretrained, str(data._cache.folder))
    assert len(set(fresh.sample_hashes)) == len(fresh.ids)
    data.setup()
    assert data_record(LatentDataModule(Coloured(), pretrained, str(data._cache.folder))) == data_record(data)
