"""Do networks that are trained on blurred faces have units for faces? (Hernandez et al. 2022, section 6)"""

from pathlib import Path

from milan.experiments.audit.audited_networks import audit_networks, make_unit_views, write_check_form
from milan.experiments.audit.config import AuditConfig
from milan.experiments.audit.tables import make_report
from milan.experiments.core.form_answers import read_answers
from milan.experiments.core.report import Report
from milan.storage.files import lock_folder


def audit(config: AuditConfig) -> Report:
    """Count the units that detect faces by their descriptions, and read which of them people confirmed.

    Raises:
        BadInput: networks, their pairs and their weights are not as many.
    """
    out = config.out or Path("runs") / "audit"
    with lock_folder(out):
        networks = audit_networks(config, out)
        form = write_check_form(networks, out / "page")
        answers = read_answers(config.answers or (), form)
        report = make_report(networks, answers, config)
        report.write(out, make_unit_views(networks, answers, out / "page"))
    return report
