"""In which transfer syntaxes a SOP class is kept: what a C-GET's presentation contexts are agreed by."""

from pathlib import Path

from tests.catalog.test_index_against_files import received
from tests.indexing.arranging import settings_of
from vna.catalog import Catalog, CatalogIndex
from vna.simulated_pacs import EXPLICIT_LITTLE, IMPLICIT_LITTLE, write_studies

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def test_the_commonest_transfer_syntax_of_a_class_comes_first(url: str, tmp_path: Path) -> None:
    paths: list[Path] = []
    for seed, modality, syntax, amount in (
        (1, "CT", EXPLICIT_LITTLE, 2),
        (2, "CT", IMPLICIT_LITTLE, 3),
        (3, "MR", EXPLICIT_LITTLE, 1),
    ):
        (study,) = write_studies(
            tmp_path / "files",
            1,
            seed=seed,
            instances=amount,
            modalities=[modality],
            transfer_syntaxes=[syntax],
        )
        paths += [instance.path for instance in study.instances]
    settings = settings_of(tmp_path / "home", catalog_url=url)
    received(settings, paths)
    catalog = Catalog(url)
    try:
        index = CatalogIndex(catalog, dict)
        assert index.syntaxes_held() == {CT: [IMPLICIT_LITTLE, EXPLICIT_LITTLE], MR: [EXPLICIT_LITTLE]}
    finally:
        catalog.close()


def test_an_empty_catalog_knows_of_none(catalog: Catalog) -> None:
    assert CatalogIndex(catalog, dict).syntaxes_held() == {}
