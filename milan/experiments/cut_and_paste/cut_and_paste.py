"""Cut-and-paste adversarial images for either-or units (Hernandez et al. 2022, appendix D and Figure 14; Mu & Andreas
2020).
"""

from milan.experiments.core.config import DissectionOptions
from milan.experiments.core.report import Report
from milan.experiments.core.study import Study
from milan.experiments.cut_and_paste.attacks import attack_unit, find_either_or_units
from milan.experiments.cut_and_paste.config import CutAndPasteConfig
from milan.experiments.cut_and_paste.examples import make_unit_views
from milan.experiments.cut_and_paste.tables import make_report


def cut_and_paste(config: CutAndPasteConfig) -> Report:
    """Paste what one half of an either-or unit detects into other images, and count the images that fool the target.

    Raises:
        BadInput: no description joins two things, or no unit can be attacked.
    """
    options = DissectionOptions(layers=[config.layer], k=config.k, quantile=config.quantile)
    with Study.open(config, options) as study:
        study.describe(config.describer)
        units = find_either_or_units(study, config)
        attacks = [attack_unit(study, unit, distance, config) for unit, distance in units]
        attacked_units = [each for each in attacks if each is not None]
        report = make_report(study, attacked_units, config)
        report.write(study.out, make_unit_views(attacked_units, study.out / "page"))
    return report
