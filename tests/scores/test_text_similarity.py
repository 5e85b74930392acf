"""Scores of texts against sums done by hand and against the libraries, and on texts that break the libraries."""

import math

import numpy as np
import pytest
import torch
from sacrebleu.metrics.bleu import BLEU

from milan.errors import BadInput, MilanWarning
from milan.scores.text_similarity import BertScoreConfig, _load_bert_scorer, bert_score, bleu_score, rouge_score

SAID = ["red cars on the street", "a dog", "green leaves and grass", "the sky above a field", "text"]
KNOWN = [
    ["Red cars in the street.", "red vehicles", "cars"],
    ["a dog", "dog faces", "animals with fur"],
    ["Grass.", "green leaves", "plants and grass"],
    ["blue sky", "sky above the field", "the sky"],
    ["words", "letters", "written text"],
]
WORDS = [
    "<pad>",
    "</s>",
    "<unk>",
    "<s>",
    "red",
    "cars",
    "on",
    "the",
    "street",
    "a",
    "dog",
    "green",
    "leaves",
    "and",
    "grass",
    "sky",
    "above",
    "field",
    "text",
    "words",
]


def test_bleu_by_hand():
    """One text of 4 words: 3 of 4 unigrams and 1 of 3 bigrams match, lengths 4 and 4."""
    found = bleu_score(["red cars and dogs"], [["red cars or dogs"]], order=2)
    assert found.value == pytest.approx(100 * math.sqrt(3 / 4 * 1 / 3))
    assert (found.units, found.distinct, found.mean_words) == (1, 1, 4.0)
    assert (found.low, found.high) == pytest.approx((found.value, found.value))


def test_brevity_is_penalised_by_hand():
    assert bleu_score(["red cars"], [["red cars on streets"]], order=1).value == pytest.approx(
        100 * math.exp(1 - 4 / 2)
    )


@pytest.mark.parametrize("order", [1, 2, 4])
def test_bleu_is_sacrebleus(order):
    lowered = [[text.lower().strip(". ") for text in texts] for texts in KNOWN]
    expected = BLEU(max_ngram_order=order).corpus_score(SAID, list(zip(*lowered, strict=True))).score
    assert bleu_score(SAID, KNOWN, order=order).value == pytest.approx(expected, abs=1e-9)


def test_units_may_have_different_numbers_of_references():
    found = bleu_score(SAID[:2], [KNOWN[0][:1], KNOWN[1]])
    padded = [["red cars in the street", "a dog"], [None, "dog faces"], [None, "animals with fur"]]
    assert found.value == pytest.approx(BLEU().corpus_score(SAID[:2], padded).score)


def test_rouge_by_hand():
    """3 words against 4, of which 2 are shared and follow one another: F1 = 2pr/(p+r) with p = 2/3, r = 2/4."""
    found = rouge_score(["red cars here"], [["some red cars drive"]])
    assert found["rouge1"].value == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found["rouge2"].value == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert found["rougeL"].value == found["rouge1"].value


def test_rouge_counts_the_best_reference_or_the_mean_of_all():
    best, mean = (
        rouge_score(["a dog"], [["a dog", "a cat"]], reduction=over)["rouge1"].value for over in ("best", "mean")
    )
    assert (best, mean) == pytest.approx((1.0, 0.75))


def test_the_interval_is_that_of_the_mean_over_resampled_units():
    found = rouge_score(SAID, KNOWN, seed=3)["rouge1"]
    each = np.array(found.unit_scores)
    means = each[np.random.default_rng(3).integers(0, 5, (1000, 5))].mean(1)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]))
    assert found.low < found.value < found.high
    assert rouge_score(SAID, KNOWN, seed=3)["rouge1"] == found
    assert rouge_score(SAID, KNOWN, seed=4)["rouge1"].low != found.low


def test_the_interval_of_bleu_covers_as_often_as_it_says():
    """Over many samples of texts that match with probability 1/2, the 95% interval of BLEU-1 holds the true value about
    95% of the time.
    """
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        said = ["yes" if match else "no" for match in rng.random(60) < 0.5]
        found = bleu_score(said, [["yes"]] * 60, order=1)
        hits += found.low <= 50 <= found.high
    assert 51 <= hits <= 60


def test_an_empty_description_scores_nothing_and_is_warned_of():
    with pytest.warns(MilanWarning, match="1 of 2 descriptions are empty"):
        found = rouge_score(["", "a dog"], [["a dog"], ["a dog"]])["rouge1"]
    assert found.unit_scores == (0.0, 1.0)
    with pytest.warns(MilanWarning):
        assert bleu_score(["."], [["a dog"]]).value == 0.0


@pytest.mark.parametrize("score", [bleu_score, rouge_score, bert_score])
def test_what_cannot_be_scored_is_told(score):
    cases = (
        ([], [], "at least 1"),
        (["a"], [], "1 descriptions"),
        (["a"], [["", " . "]], "unit at 0"),
        (["a"], ["a"], "list of texts"),
    )
    for said, known, message in cases:
        with pytest.raises(BadInput, match=message):
            score(said, known)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny random BERT with a tokenizer that has no length, by path."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = str(tmp_path_factory.mktemp("encoder"))
    numbers = {word: at for at, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, numbers[word]) for word in ("<s>", "</s>")]
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    special = {
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
    }
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, pad_token_id=0, **size)).save_pretrained(
        folder
    )
    return folder


def test_bert_score_is_what_its_paper_says(encoder):
    """Greedy matching of token embeddings by cosine, by hand, the ends of the text counted as the library does."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()

    def embedded(text):
        with torch.no_grad():
            found = model(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0]
        return torch.nn.functional.normalize(found, dim=-1)

    inside = slice(1, -1)  # the ends have no weight, but can be matched
    cosine = embedded("red cars on the street") @ embedded("cars on a street").T
    found = bert_score(
        ["red cars on the street"], [["cars on a street"]], BertScoreConfig(encoder, 2, idf=False, rescale=False)
    )
    assert found["precision"].value == pytest.approx(cosine.amax(1)[inside].mean().item(), abs=1e-5)
    assert found["recall"].value == pytest.approx(cosine.amax(0)[inside].mean().item(), abs=1e-5)


def test_bert_score_records_its_settings_and_takes_the_best_reference(encoder):
    options = {"model": encoder, "num_layers": 2, "rescale": False}
    found = bert_score(["a dog", "red cars"], [["the sky", "a dog"], ["red cars"]], BertScoreConfig(**options))["f1"]
    assert found.unit_scores == pytest.approx((1.0, 1.0), abs=1e-5)
    assert {name: found.settings[name] for name in ("model", "num_layers", "idf", "rescale")} == {
        **options,
        "idf": True,
    }


def test_bert_score_survives_empty_and_long_texts(encoder):
    with pytest.warns(MilanWarning, match="empty"):
        found = bert_score(["", "dog " * 300], [["the sky"], ["", "dog"]], BertScoreConfig(encoder, 2, rescale=False))[
            "f1"
        ]
    assert found.unit_scores[0] == 0.0
    assert 0 < found.unit_scores[1] <= 1
    with pytest.warns(MilanWarning):
        assert bert_score([""], [["a dog"]], BertScoreConfig(encoder, 2, rescale=False))["f1"].value == 0.0


def test_the_weights_by_rarity_follow_the_references_of_each_call(encoder):
    def score(references):
        return bert_score(["a dog", "the sky"], references, BertScoreConfig(encoder, 2, rescale=False))[
            "f1"
        ].unit_scores

    first = score([["a dog on grass"], ["the sky above"]])
    score([["text"], ["words"]])
    assert score([["a dog on grass"], ["the sky above"]]) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "/nowhere/bert", "num_layers": 2, "rescale": False}, "no folder /nowhere/bert"),
        ({"model": "roberta-huge"}, "set num_layers"),
        ({"model": "some-encoder", "num_layers": 2}, "no English baseline for some-encoder; set rescale=False"),
        (
            {"model": "some-encoder-that-is-not", "num_layers": 2, "rescale": False},
            "cannot load some-encoder-that-is-not",
        ),
    ],
)
def test_models_that_are_not_to_be_had_are_told(options, message):
    with pytest.raises(BadInput, match=message):
        bert_score(["a"], [["a"]], BertScoreConfig(**options))


def test_a_roberta_reads_its_first_word_as_any_other(tmp_path):
    """Without a space before it the first word would be another token, and the scores of roberta-large would differ
    unnoticed.
    """
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        ["a red dog and a red cat on the red street"] * 20,
        vocab_size=330,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
    )
    RobertaTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(tmp_path)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    RobertaModel(
        RobertaConfig(vocab_size=trained.get_vocab_size(), max_position_embeddings=66, pad_token_id=1, **size)
    ).save_pretrained(tmp_path)
    tokenizer = _load_bert_scorer(str(tmp_path), 2, False, "cpu")._tokenizer
    first, later = tokenizer("red").input_ids[1:-1], tokenizer("a red").input_ids[1:-1]
    assert first == later[-len(first) :]
    assert tokenizer.model_max_length == 64
    assert bert_score(["red " * 200], [["a dog"]], BertScoreConfig(str(tmp_path), 2, rescale=False))["f1"].units == 1
