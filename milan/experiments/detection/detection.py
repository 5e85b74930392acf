"""Whether a judge can tell with a description what activates a unit, and without one which image does not."""

from milan.errors import BadInput
from milan.experiments.core.report import Report
from milan.experiments.core.scored_descriptions import DescriptionSets
from milan.experiments.core.study import Study
from milan.experiments.detection.config import DetectionConfig
from milan.experiments.detection.tables import DetectionScores
from milan.pretrained.embedder import load_embedder
from milan.probes.pixel_labels import shows_diorama
from milan.scores.activation_simulation import DIORAMA_SIMULATOR
from milan.scores.example_judges import load_judge


def detection(config: DetectionConfig) -> Report:
    """Draw examples of units from held-out images, and let a judge rate descriptions on them.

    Raises:
        BadInput: there is no judge for these images, or the number of examples is below 2.
        MissingEvidence: the judge reads labels that the images do not have.
    """
    if config.examples < 2:
        raise BadInput(f"examples is {config.examples}; give at least 2")
    with Study.open(config, split="learn") as study:
        judged_probe = study.load_probe(split="judge")
        spec = config.judge or (DIORAMA_SIMULATOR if shows_diorama(study.probe_spec) else "")
        if not spec:
            raise BadInput(
                f"no judge is stated for {study.probe_spec}; set --judge to an image-text model, as"
                " open_clip:ViT-B-16/openai, or openai:MODEL"
            )
        judge = load_judge(spec, judged_probe, config.device, config.base_url, config.max_calls)
        if config.negatives:
            load_embedder(config.negatives, device=config.device)
        scores = DetectionScores.compute(
            DescriptionSets.describe(study, config.describers), judged_probe, judge, config
        )
        report = scores.make_report()
        report.write(study.out)
    return report
