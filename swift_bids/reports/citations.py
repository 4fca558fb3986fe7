"""Settings of a call -> logs/CITATION.md and .bib: a methods paragraph and the works to cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from swift_bids import __version__
from swift_bids.base.backbones import BACKBONES
from swift_bids.base.files import write_text
from swift_bids.outputs.provenance import CODE_URL

_FMRIPREP = (
    "Esteban O. et al. (2019). fMRIPrep: a robust preprocessing pipeline for functional MRI. "
    "Nature Methods 16, 111-116. doi:10.1038/s41592-018-0235-4"
)
_HCP = (
    "Glasser M. F. et al. (2013). The minimal preprocessing pipelines for the Human Connectome "
    "Project. NeuroImage 80, 105-124. doi:10.1016/j.neuroimage.2013.04.127"
)
#: Layout of the input -> what a work on its pipeline is cited for -> the work.
_PIPELINES = {
    "fmriprep": {"fMRIPrep; its own reports list further works to cite": _FMRIPREP},
    "nibabies": {
        "NiBabies; its own reports list further works to cite": (
            "NiBabies: a robust preprocessing workflow tailored for neonate and infant MRI. "
            "https://github.com/nipreps/nibabies"
        ),
    },
    "hcp": {"The minimal preprocessing pipelines": _HCP},
    "abcd": {
        "The abcd-hcp-pipeline": (
            "Feczko E. et al. (2021). Adolescent Brain Cognitive Development (ABCD) Community MRI "
            "Collection and Utilities. bioRxiv. doi:10.1101/2021.07.09.451638"
        ),
        "The pipelines that it adapts": _HCP,
    },
    "ukb": {
        "UK Biobank's pipeline": (
            "Alfaro-Almagro F. et al. (2018). Image processing and Quality Control for the first "
            "10,000 brain imaging datasets from UK Biobank. NeuroImage 166, 400-424. "
            "doi:10.1016/j.neuroimage.2017.10.034"
        ),
    },
}
_ICA_FIX = {
    "ICA-FIX": (
        "Salimi-Khorshidi G. et al. (2014). Automatic denoising of functional MRI data: combining "
        "independent component analysis and hierarchical fusion of classifiers. NeuroImage 90, "
        "449-468. doi:10.1016/j.neuroimage.2013.11.046"
    ),
    "ICA-FIX for artefacts of motion and physiology": (
        "Griffanti L. et al. (2014). ICA-based artefact removal and accelerated fMRI acquisition "
        "for improved resting state network imaging. NeuroImage 95, 232-247. "
        "doi:10.1016/j.neuroimage.2014.03.034"
    ),
}
_MOTION = {
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


def references(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return what each work is cited for -> the work.

    Parameters
    ----------
    metadata
        Content of a sidecar, with `Model` and `Preprocessing`.
    """
    preprocessing = metadata["Preprocessing"]
    reason, work = BACKBONES[metadata["Model"]["Variant"]].network.work
    cleaned = _ICA_FIX if preprocessing.get("Denoising") == "ICA-FIX" else {}
    # outputs of version 0.5.0 do not name the layout of their input
    pipeline = _PIPELINES[preprocessing.get("InputType", "fmriprep")]
    return {reason: work, **pipeline, **cleaned, **_MOTION}


_CITATION = """\
# Methods

{methods}

# How to cite

The embeddings were made by swift_bids {version} (<{code}>). Please cite

{references}

CITATION.bib contains these works, and those on other pipelines, as BibTeX. Each participant's page
has a methods paragraph for its runs.
"""


def write_citations(output_dir: Path, described: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Write both files for a call.

    Parameters
    ----------
    described
        Name of a run, and settings as `swift_bids.outputs.provenance.settings_metadata` returns
        them, for each way in which runs are resampled.
    """
    environment = Environment(  # noqa: S701 the output is Markdown, not HTML
        loader=PackageLoader("swift_bids", "data"), undefined=StrictUndefined
    )
    paragraphs: list[str] = []
    works: dict[str, str] = {}
    for name, settings in described:
        text = environment.get_template("methods.j2").render(qc=settings).strip()
        paragraphs.append(f"Runs such as {name}: {text}" if len(described) > 1 else text)
        works |= references(settings)
    text = _CITATION.format(
        methods="\n\n".join(paragraphs),
        version=__version__,
        code=CODE_URL,
        references="\n".join(f"- {reason}: {work}" for reason, work in works.items()),
    )
    write_text(output_dir / "logs" / "CITATION.md", text)
    bibliography = resources.files("swift_bids").joinpath("data/citations.bib").read_text()
    write_text(output_dir / "logs" / "CITATION.bib", bibliography)
