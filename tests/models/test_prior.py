"""The prior: its decoder state against PyTorch's LSTM, for texts with common beginnings."""

import torch
from torch.nn import functional as F

from milan.models import TextBatch
from tests.models.worlds import WORDS, prior


def test_scores_equal_those_of_the_lstm() -> None:
    model = prior(layers=3)
    stop = model.vocabulary.stop
    tokens = torch.tensor(
        [[4, 7, stop, stop], [4, 7, 7, stop], [4, 9, 1, 2], [stop, stop, stop, stop], [4, 7, stop, 9]]
    )
    with torch.no_grad():
        states, _ = model.lstm(model.embedding(F.pad(tokens, (1, 0), value=model.vocabulary.start)[:, :-1]))
        logs = model.readout(states).log_softmax(-1).gather(2, tokens.unsqueeze(2)).squeeze(2)
    counted = [logs[0, :3].sum(), logs[1].sum(), logs[2].sum(), logs[3, 0], logs[4, :3].sum()]
    torch.testing.assert_close(model.score(tokens), torch.stack(counted), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        model.score(tokens, trailing=True)[[0, 1]], torch.stack([logs[0].sum(), logs[1].sum()]), atol=1e-5, rtol=0
    )
    assert model.score(tokens.view(5, 1, 4)).shape == (5, 1)


def test_the_loss_is_a_mean_over_real_tokens() -> None:
    model = prior()
    stop, pad = model.vocabulary.stop, model.vocabulary.pad
    tokens = torch.tensor([[1, 2, 3, stop], [5, stop, pad, pad]])
    with torch.no_grad():
        loss = model.loss(TextBatch(tokens))
    torch.testing.assert_close(loss, -model.score(tokens).sum() / 6, atol=1e-5, rtol=0)


def test_probabilities_of_all_one_word_texts_sum_to_that_of_one_word() -> None:
    model = prior()
    words = torch.arange(len(WORDS) + 4).unsqueeze(1)
    assert torch.isclose(model.score(words).exp().sum(), torch.tensor(1.0), atol=1e-4)
