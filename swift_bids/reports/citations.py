"""Settings of a call -> logs/CITATION.md and .bib: a methods paragraph and the works to cite."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from swift_bids import __version__
from swift_bids.base.files import write_text
from swift_bids.outputs.provenance import CODE_URL

#: What each work is cited for -> the work.
REFERENCES = {
    "SwiFT, a 4D Swin Transformer for functional MRI": (
        "Kim P. Y., Kwon J., Joo S., Bae S., Lee D., Jung Y., Yoo S., Cha J., Moon T. (2023). "
        "SwiFT: Swin 4D fMRI Transformer. Advances in Neural Information Processing Systems 36. "
        "arXiv:2307.05916"
    ),
    "fMRIPrep; its own reports list further works to cite": (
        "Esteban O. et al. (2019). fMRIPrep: a robust preprocessing pipeline for functional MRI. "
        "Nature Methods 16, 111-116. doi:10.1038/s41592-018-0235-4"
    ),
    "Framewise displacement": (
        "Power J. D. et al. (2012). Spurious but systematic correlations in functional "
        "connectivity MRI networks arise from subject motion. NeuroImage 59, 2142-2154. "
        "doi:10.1016/j.neuroimage.2011.10.018"
    ),
    "Regressing motion parameters out of the parcels' time series": (
        "Friston K. J. et al. (1996). Movement-related effects in fMRI time-series. Magnetic "
        "Resonance in Medicine 35, 346-355. doi:10.1002/mrm.1910350312"
    ),
}
_CITATION = """\
# Methods

{methods}

# How to cite

The embeddings were made by swift_bids {version} (<{code}>). Please cite

{references}

CITATION.bib contains these works as BibTeX. Each participant's page has a methods paragraph for its
runs.
"""


def write_citations(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Write both files for the settings of a call.

    Parameters
    ----------
    settings
        As `swift_bids.outputs.provenance.settings_metadata` returns them.
    """
    environment = Environment(  # noqa: S701 the output is Markdown, not HTML
        loader=PackageLoader("swift_bids", "data"), undefined=StrictUndefined
    )
    methods = environment.get_template("methods.j2").render(qc=settings).strip()
    references = "\n".join(f"- {reason}: {work}" for reason, work in REFERENCES.items())
    text = _CITATION.format(
        methods=methods, version=__version__, code=CODE_URL, references=references
    )
    write_text(output_dir / "logs" / "CITATION.md", text)
    bibliography = resources.files("swift_bids").joinpath("data/citations.bib").read_text()
    write_text(output_dir / "logs" / "CITATION.bib", bibliography)
