"""Sentence encoders of transformers' own classes by path, and the score that uses them."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from milan.errors import BadInput, UnknownName
from milan.pretrained.sentence_encoder import load_sentence_encoder
from milan.scores.text_similarity import embedding_cosine
from tests.pretrained.tiny import LONGEST, WORDS, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=LONGEST, **sizes)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_a_text_is_the_mean_of_its_tokens_whatever_it_is_batched_with(folder):
    encoder = load_sentence_encoder(f"hf:{folder}")
    model, words = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        alone = model(**words("a red dog", return_tensors="pt")).last_hidden_state[0].mean(0)
    found = encoder.encode_texts(["a red dog", "a photo of the wheel of a cat", "red " * 40])
    torch.testing.assert_close(found[0], alone / alone.norm(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert encoder.encode_texts([]).shape == (0, 16)


def test_the_cosine_of_the_best_reference(folder):
    encoder = load_sentence_encoder(f"hf:{folder}")
    score = embedding_cosine(["a red dog", ""], [["the cat", "A red dog."], ["wheel"]], encoder)
    np.testing.assert_allclose(score.unit_scores, [1.0, 0.0], atol=1e-6)
    cat, dog = encoder.encode_texts(["the cat", "a red dog"]).double().numpy()
    mean = embedding_cosine(["a red dog"], [["the cat", "A red dog."]], encoder, reduction="mean")
    assert mean.value == pytest.approx((1 + cat @ dog) / 2, abs=1e-6)
    assert mean.settings["encoder"] == encoder.key


def test_what_is_no_encoder_is_told(tmp_path):
    with pytest.raises(UnknownName, match="write hf:"):
        load_sentence_encoder("mpnet")
    with pytest.raises(BadInput, match=r"holds no config\.json"):
        load_sentence_encoder(f"hf:{tmp_path}")
