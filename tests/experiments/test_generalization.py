"""The experiment generalization on toy networks: training on one network describes the other, finished trainings are
reused, and scores equal those computed by hand.
"""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.decomposition import PCA

from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.milannotations import export_compact
from milan.experiments.core import description_scores as judging
from milan.experiments.core.description_scores import BertScoreConfig, DescriptionScorer, TextsWithReferences
from milan.experiments.core.report import Report
from milan.experiments.generalization import trained_splits
from milan.experiments.generalization.config import GeneralizationConfig
from milan.experiments.generalization.generalization import generalization
from milan.experiments.generalization.model_training import PrincipalComponents, SplitDataModule, fork_seed
from milan.experiments.generalization.network_splits import SplitUnits, divide_units, load_networks, make_splits
from milan.models import load_encoder
from milan.models.annotated_units import AnnotatedUnit
from milan.models.feature_store import FeatureStore
from milan.probes import load_probe
from milan.scores.confidence_intervals import Measure
from milan.scores.truth_score import Truth
from milan.storage.journal import Journal
from milan.targets.loading import load_target
from milan.units import Unit
from tests.experiments import worlds
from tests.models.test_data_module import COLOURS, annotated

SIZES = {"hidden": 24, "prior_hidden": 8, "batch_size": 32, "learning_rate": 1e-2, "prior_learning_rate": 3e-2}
SMALL = SIZES | {"beam": 5, "half": False, "epochs": 15, "patience": 6}
TARGET = f"{worlds.__file__}:looks"
TRUE = {0: "red", 1: "green", 2: "blue", 3: "red or blue", 4: "things"}


def run_experiment(folder: Path, **options: object) -> Report:
    return generalization(GeneralizationConfig(annotations=[str(folder)], **options))


def values(report: Report, table: int, row: str) -> dict:
    return dict(next(found.values for found in report.tables[table].rows if found.name == row))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks in MILANNOTATIONS' layout whose units answer to squares of one colour; a third of the texts tell the
    side too.
    """
    root = tmp_path_factory.mktemp("milannotations")
    for name, units in (("alexnet/imagenet", 20), ("resnet152/imagenet", 24)):
        annotated(root / name, ("a", "b"), units, k=3)
    return root


@pytest.fixture(scope="module")
def run(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("out")
    return run_experiment(folders, seeds=1, kinds=["left-out"], out=out, **SMALL), out


def test_training_on_one_network_describes_the_other(run: tuple[Report, Path]) -> None:
    report, _ = run
    assert [row.name for row in report.tables[0].rows] == [
        "leave one out: alexnet-imagenet",
        "leave one out: resnet152-imagenet",
    ]
    together = {row.name: row.values for row in report.tables[1].rows}
    assert set(together) == {"milan", "p(d|E)", "an annotator*", "shuffled", "constant"}
    assert together["milan"]["BLEU-1"].value > together["shuffled"]["BLEU-1"].value + 10
    assert together["p(d|E)"]["ROUGE-L"].value > 0.9 > 0.7 > together["constant"]["ROUGE-L"].value
    assert values(report, 2, "constant")["distinct"].value == 1
    assert values(report, 0, "leave one out: resnet152-imagenet")["units"] == 48
    assert values(report, 0, "leave one out: resnet152-imagenet")["unknown words"] == 0
    assert "truth" not in together["milan"], "nobody knows what is true of these"
    words = {row.name: row.values for row in next(one for one in report.tables if "words of" in one.name).rows}
    assert list(words) == [*(row.name for row in report.tables[0].rows), "total"]
    assert words["total"]["units"] == sum(words[row.name]["units"] for row in report.tables[0].rows)
    assert 0 < words["total"]["nouns"] <= 1


def journal_of(out: Path) -> dict[str, list[str]]:
    """Return the stored descriptions by their keys."""
    with trained_splits.Journal(
        out / "learnt.sqlite", trained_splits.content_key(format=trained_splits.FORMAT)
    ) as journal:
        return {key: (journal.get(key) or {})["likely"] for key in journal.ids()}


def test_the_colour_is_right(folders: Path, run: tuple[Report, Path]) -> None:
    _, out = run
    for texts in journal_of(out).values():
        units = [list(COLOURS)[row % 4] for row in range(len(texts))]
        assert sum(text.split()[0] == colour for text, colour in zip(texts, units, strict=True)) >= 0.7 * len(texts)


def test_nothing_is_trained_twice(
    folders: Path, run: tuple[Report, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, whole = run
    out = tmp_path / "out"
    shutil.copytree(whole, out)

    def never(*_: object) -> None:
        raise AssertionError("this was trained before")

    monkeypatch.setattr(trained_splits, "train_models", never)
    again = run_experiment(folders, seeds=1, kinds=["left-out"], out=out, prior_weight=0.0, **SMALL)
    milan, likely = (values(again, 1, name) for name in ("milan", "p(d|E)"))
    assert milan == likely == values(report, 1, "p(d|E)"), "without a prior both are one, and that was known"


def test_an_interrupted_run_resumes_to_the_same_result(
    folders: Path, run: tuple[Report, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, whole = run
    train, done = trained_splits.train_models, []

    def stopping(*given: object) -> object:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return train(*given)

    monkeypatch.setattr(trained_splits, "train_models", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(folders, seeds=1, kinds=["left-out"], out=tmp_path / "out", **SMALL)
    assert len(done) == 1
    monkeypatch.setattr(trained_splits, "train_models", lambda *given: done.append(2) or train(*given))
    again = run_experiment(folders, seeds=1, kinds=["left-out"], out=tmp_path / "out", **SMALL)
    assert done == [1, 2]
    assert journal_of(tmp_path / "out") == journal_of(whole)
    assert again.tables == report.tables


def test_everything_is_written(run: tuple[Report, Path]) -> None:
    _, out = run
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["paper"]) for row in rows] == [0.38, 0.35]
    facts = json.loads((out / "report.json").read_text())["facts"]
    (trained,) = facts["trainings"]["leave one out, alexnet-imagenet"]
    assert {"captioner", "prior", "seconds"} <= trained.keys()
    page = (out / "page" / "index.html").read_text()
    assert 'src="figure-1.svg"' in page
    assert "leave one out: alexnet-imagenet" in page
    figure = (out / "page" / "figure-1.svg").read_text()
    assert figure.startswith("<?xml")
    assert "alexnet-imagenet" in figure


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of known units on Diorama's scenes, annotated truly, under the names of two networks."""
    root = tmp_path_factory.mktemp("looks")
    found = dissect(load_target(TARGET), load_probe("diorama:objects", limit=40), ["looks"], root / "dissection", k=4)[
        "looks"
    ]
    texts = {Unit("looks", index): [text, f"{text} things", f"the color {text}"] for index, text in TRUE.items()}
    for name in ("alexnet-objects", "resnet-objects"):
        export_compact(found, root / "annotations" / name, texts)
    return root


@pytest.fixture(scope="module")
def known(looks: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    options = SMALL | {"epochs": 2}
    return run_experiment(
        looks / "annotations", seeds=2, kinds=["left-out"], out=tmp_path_factory.mktemp("out"), **options
    )


def test_the_report_has_truth_and_describers_without_training(known: Report, looks: Path) -> None:
    table = {row.name: (row.role, row.values) for row in known.tables[2].rows}
    assert list(table) == ["milan", "p(d|E)", "netdissect", "compositional", "an annotator*", "shuffled", "constant"]
    assert (table["an annotator*"][0], table["constant"][0]) == ("ceiling", "floor")
    truth = Truth.measure(dissection(looks), load_target(TARGET))
    every = [
        truth.score(Unit("looks", unit), form.format(text))
        for form in ("{}", "{} things", "the color {}")
        for unit, text in TRUE.items()
    ]
    assert sum(every) / 15 == pytest.approx(table["an annotator*"][1]["truth"].value)
    scores = {name: row[1]["truth"].value for name, row in table.items()}
    assert min(scores["compositional"], scores["netdissect"]) > 0.4 > scores["constant"]
    assert [table[name][1]["paper"] for name in ("milan", "p(d|E)", "netdissect", "compositional")] == [
        0.38,
        0.34,
        0.24,
        0.01,
    ]


def dissection(looks: Path) -> Dissection:
    from milan.dissection.loading import load_dissection

    return load_dissection(looks / "dissection" / "looks")


def test_every_seed_has_its_training(known: Report) -> None:
    trained = known.facts["trainings"]["leave one out, resnet-objects"]
    assert [each["seed"] for each in trained] == [0, 1]
    assert known.facts["seed"] == "0 to 1"


def test_seeds_count_from_the_first(folders: Path, run: tuple[Report, Path], tmp_path: Path) -> None:
    options = SMALL | {"epochs": 1, "updates": 3, "prior_updates": 2}
    report = run_experiment(folders, seeds=2, seed=3, kinds=["architectures"], out=tmp_path / "out", **options)
    trained = report.facts["trainings"]["across architectures, AlexNet to ResNet"]
    assert [each["seed"] for each in trained] == [3, 4]
    assert [each["captioner"]["updates"] for each in trained] == [3, 3]
    assert {each["prior"]["updates"] for each in trained} == {2}
    assert report.facts["seed"] == "3 to 4"


def test_the_ceiling_scores_each_annotator_against_the_others(known: Report, looks: Path) -> None:
    source = looks / "annotations" / "alexnet-objects" / "looks"
    units = [
        AnnotatedUnit(source, Unit("looks", index), (text, f"{text} things", f"the color {text}"))
        for index, text in TRUE.items()
    ]
    rounds = [
        TextsWithReferences(
            tuple(units),
            tuple(unit.texts[out] for unit in units),
            tuple(unit.texts[:out] + unit.texts[out + 1 :] for unit in units),
        )
        for out in range(3)
    ]
    found = values(known, 2, "an annotator*")
    assert found["BLEU"].value == pytest.approx(DescriptionScorer().compute_scores(rounds)["BLEU"].value)
    assert found["units"] == 5


def test_a_network_without_pixel_labels_is_reported(known: Report, looks: Path, tmp_path: Path) -> None:
    shutil.copytree(looks / "annotations", tmp_path / "annotations")
    for file in tmp_path.glob("annotations/*/looks/probe.json"):
        facts = json.loads(file.read_text())
        photos = load_probe("diorama:objects", limit=40)
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        if not any(folder.iterdir()):
            write_pictures(folder, [photos.image(index) for index in range(40)])
        file.write_text(json.dumps(facts | {"spec": str(folder)}))
    options = SMALL | {"epochs": 1}
    report = run_experiment(tmp_path / "annotations", seeds=1, kinds=["left-out"], out=tmp_path / "out", **options)
    assert any("have no labels" in note for note in report.notes)
    assert "netdissect" not in {row.name for row in report.tables[1].rows}


def write_pictures(folder: Path, images: list[torch.Tensor]) -> None:
    from PIL import Image

    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")


def test_the_papers_order_is_compared_pair_by_pair(folders: Path, tmp_path: Path) -> None:
    report = run_experiment(folders, seeds=1, kinds=["architectures"], out=tmp_path / "out", **SMALL | {"epochs": 1})
    there, back = (
        values(report, 0, f"across architectures: {name}") for name in ("AlexNet to ResNet", "ResNet to AlexNet")
    )
    assert (there["paper"], back["paper"]) == (0.28, 0.35)
    same = int(back["ROUGE-L"].value > there["ROUGE-L"].value)
    assert (
        f"Of 1 pairs of splits that differ in the paper's Table 3, {same} have the same order here by ROUGE-L."
        in report.notes
    )


def test_components_are_those_of_scikit_learn() -> None:
    features = (
        torch.randn(7, 3, 6, generator=torch.Generator().manual_seed(0))
        @ torch.diag(torch.tensor([5.0, 3, 2, 1, 0.5, 0.1]))
        + 2
    )
    found = PrincipalComponents.fit(features, 3)(features).flatten(0, 1)
    expected = torch.from_numpy(PCA(3).fit_transform(features.flatten(0, 1).numpy())).flip(1)
    scale = expected.square().mean().sqrt()
    torch.testing.assert_close(found.abs(), (expected / scale).abs(), atol=1e-4, rtol=0)
    assert found.square().mean().item() == pytest.approx(1, abs=1e-4)


def test_a_captioner_of_components_is_saved_and_loaded(folders: Path, tmp_path: Path) -> None:
    split = make_splits(load_networks([str(folders)]))[-1]
    sizes = {"hidden": 8, "prior_hidden": 8, "updates": 2, "prior_updates": 1, "components": 5}
    config = GeneralizationConfig(out=tmp_path, half=False, **sizes)
    store = FeatureStore(load_encoder("diorama:encoder"))
    units = divide_units(split, 0)
    first, again = (trained_splits.load_or_train(split, units, config, store, 0) for _ in range(2))
    features = store.load_features(units.test)
    assert again.facts == first.facts
    assert again.captioner.key.in_features == 5
    expected = PrincipalComponents.fit(store.load_features(units.train), 5)(features)
    torch.testing.assert_close(again.project(features), expected)
    plain = first._replace(captioner=again.captioner, components=None)
    torch.testing.assert_close(plain.project(features), features)


def test_pairs_of_texts_are_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unit(index: int, *texts: str) -> AnnotatedUnit:
        return AnnotatedUnit(tmp_path / "net" / "layer", Unit("layer", index), texts)

    units = [unit(0, "red dots", "a red dot"), unit(1, "Red dots.", ""), unit(2, "sky")]
    rounds = [
        TextsWithReferences.from_annotations(units, ["red dots", "red dots", ""]),
        TextsWithReferences.from_annotations(units, ["red dots", "red", "sky"]),
    ]
    compared: list[tuple[str, tuple[str]]] = []

    def score(said: list[str], known: list[tuple[str]], config: BertScoreConfig, **options: object) -> dict:
        compared.extend(zip(said, known, strict=True))
        assert options["idf_texts"] == ("red dots", "sky")
        return {"f1": SimpleNamespace(unit_scores=tuple(len(text) / 10 for text in said))}

    monkeypatch.setattr(judging, "bert_score", score)
    judge = DescriptionScorer(
        bert=BertScoreConfig("model"), idf_texts=("red dots", "sky"), journal=Journal(tmp_path / "kept.sqlite", "1")
    )
    found = judge.compute_scores(rounds)
    assert sorted(compared) == [
        ("red", ("red dots",)),
        ("red dots", ("a red dot",)),
        ("red dots", ("red dots",)),
        ("sky", ("sky",)),
    ]
    assert found["BERTScore"].value == pytest.approx((0.8 + 0.8 + 0 + 0.8 + 0.3 + 0.3) / 6)
    assert found["ROUGE-L"].value == pytest.approx((1 + 1 + 0 + 1 + 2 / 3 + 1) / 6)
    again = DescriptionScorer(bert=BertScoreConfig("model"), idf_texts=("red dots", "sky"), journal=judge.journal)
    assert again.compute_scores(rounds) == found
    assert len(compared) == 4, "what was compared is read again"


def test_fork_seed_restores_the_random_state() -> None:
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    with fork_seed(0):
        inside = torch.rand(1)
    assert torch.rand(1) == first
    with fork_seed(0):
        assert torch.rand(1) == inside


def test_values_have_their_intervals(run: tuple[Report, Path]) -> None:
    report, _ = run
    for row in report.tables[0].rows:
        for name in ("BLEU", "ROUGE-L", "words"):
            value = row.values[name]
            assert isinstance(value, Measure)
            assert value.low <= value.value <= value.high


def test_unknown_words_are_counted_by_hand() -> None:
    def unit(*texts: str) -> AnnotatedUnit:
        return AnnotatedUnit(Path("layer"), Unit("layer", 0), texts)

    share = SplitUnits(train=(unit("red dots", "a dot"),), stop=(), test=(unit("Red cats"), unit("a cat's dots")))
    assert trained_splits.compute_unknown_share(share) == 3 / 6, "cats, cat and 's"


def test_few_annotations_make_small_batches_and_updates_are_limited_by_epochs(folders: Path) -> None:
    units = divide_units(make_splits(load_networks([str(folders)]))[0], 0)
    store, config = FeatureStore(load_encoder("diorama:encoder")), GeneralizationConfig(batch_size=256, epochs=2)
    data, texts = (SplitDataModule(units, store, config, 0, texts_only) for texts_only in (False, True))
    batches = list(data.train_dataloader())
    assert 8 <= len(batches) <= 10
    assert sum(len(batch.tokens) for batch in batches) == 3 * len(units.train)
    assert data.limit_updates(5) == 5
    assert data.limit_updates(1000) == 2 * len(batches)
    again = [batch.tokens for batch in texts.train_dataloader()]
    assert all(torch.equal(batch.tokens, tokens) for batch, tokens in zip(batches, again, strict=True))


def test_descriptions_of_random_units_are_in_the_report(run: tuple[Report, Path]) -> None:
    report, out = run
    rows = report.tables[-1].rows
    assert len(rows) == 3 * 2
    said = {text for texts in journal_of(out).values() for text in texts}
    assert {row.values["p(d|E)"] for row in rows} <= said
    assert all(len(str(row.values["annotators"]).split("; ")) == 3 for row in rows)
