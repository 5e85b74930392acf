"""Whether images that are generated from descriptions activate the units (SAND's activation fraction; CoSy's AUC and
MAD).
"""

from milan.experiments.core.report import Report
from milan.experiments.core.scored_descriptions import DescriptionSets
from milan.experiments.core.study import Study
from milan.experiments.painted.config import PaintedConfig
from milan.experiments.painted.tables import PaintedScores
from milan.pretrained.painter import load_painter


def painted(config: PaintedConfig) -> Report:
    """Generate images from descriptions, and compare the units' activations on them with those on other images."""
    painter = load_painter(config.painter, device=config.device)
    with Study.open(config) as study:
        scores = PaintedScores(DescriptionSets.describe(study, config.describers), painter, config)
        units = len(study.describers[0].descriptions)
        report = study.report(
            study.target.name,
            f"The target runs on {config.images_per_text} images of each description of {units} units by"
            f" {len(config.describers)} describers.",
            [scores.make_table()],
            headlines=scores.make_headlines(),
            notes=scores.make_notes(),
            facts={name: getattr(config, name) for name in ("painter", "images_per_text", "prompt", "negatives")},
            sources={"painter": config.painter},
        )
        report.write(study.out)
    return report
