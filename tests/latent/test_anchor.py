"""Anchors: prompts of other styles for those to forget."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.pipelines import text_config, word_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import CLIPTextModelWithProjection

from guda_lightning import FullModel, UnlearnModule
from guda_lightning.data import Digits, GroupDataModule, PromptTemplate, UnlearnDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import noised
from guda_lightning.diffusion.module import Noised
from guda_lightning.errors import ConfigError, DataError, StoreError
from guda_lightning.functional.anchors import style_probabilities, style_prototype
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.latent import LatentDataModule, LatentDiffusionModule
from guda_lightning.storage.provenance import Provenance
from guda_lightning.unlearning import Anchor, ObjectiveContext
from guda_lightning.unlearning.anchor import BoundAnchor
from toys import COLOURS, Coloured


@pytest.fixture
def forgetting(data: LatentDataModule) -> UnlearnDataModule:
    return data.unlearning(["red"])


def batch_of(split: UnlearnDataModule, rows: list[int]) -> Noised:
    """Forget samples, noised."""
    labels = split.parent.labels
    assert labels is not None
    schedule = FullModel.of(LatentDiffusionModule(split.parent.encoders.pretrained)).model.schedule  # type: ignore[attr-defined]
    return noised(split.parent.inputs[rows], labels[rows], schedule)._replace(rows=torch.tensor(rows))


def bound(objective: Anchor, data: UnlearnDataModule) -> BoundAnchor:
    """The objective, bound as ``UnlearnModule`` binds it."""
    schedule = NoiseSchedule.from_alphas_cumprod(torch.tensor([0.9, 0.5]))  # anchors look at none
    provenance = Provenance("full", schedule.hash, data.grouping.hash)
    return objective.bind(ObjectiveContext(data, schedule, provenance, torch.device("cpu")))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an untrained text tower that knows the words."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    tokenizer = word_tokenizer(list(Coloured().load().prompts or ()))
    CLIPTextModelWithProjection(text_config(tokenizer, 32)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def unit(rows: int) -> st.SearchStrategy[np.ndarray]:
    vectors = arrays(np.float64, (rows, 3), elements=st.floats(-1, 1, width=16))
    return vectors.filter(lambda x: bool((np.linalg.norm(x, axis=1) > 0.1).all())).map(
        lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    )


@given(unit(4), unit(5), st.floats(0, 8), st.floats(0, 1))
def test_probabilities_are_a_mixture_of_softmax_and_uniform(
    words: np.ndarray, prototypes: np.ndarray, beta: float, eta: float
) -> None:
    found = style_probabilities(torch.tensor(words), torch.tensor(prototypes), beta, eta).numpy()
    for row, word in enumerate(words):
        weights = [np.exp(beta * float(word @ prototype)) for prototype in prototypes]
        expected = [(1 - eta) * weight / sum(weights) + eta / len(weights) for weight in weights]
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


def test_a_prototype_is_the_mean_of_its_descriptors() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert style_prototype(rows).tolist() == [0.5, 0.5]


def test_a_style_is_replaced_by_words_of_one_that_stays(forgetting: UnlearnDataModule) -> None:
    objective = bound(Anchor(strategy="uniform_style", descriptors=2), forgetting)
    batch = batch_of(forgetting, [0, 3, 6] * 100)
    anchors = objective.anchors(batch)
    contents = [text.split()[3].rstrip(",") for text in anchors]
    assert contents == ["0", "1", "2"] * 100  # as in the prompts to forget
    drawn = Counter(frozenset(text.rpartition("featuring ")[2].split(", ")) for text in anchors)
    assert set(drawn) == {frozenset(COLOURS["green"]), frozenset(COLOURS["blue"])}
    assert abs(drawn[frozenset(COLOURS["green"])] / 300 - 0.5) < 0.1


def test_near_styles_are_drawn_oftener(forgetting: UnlearnDataModule, clip: str) -> None:
    objective = bound(
        Anchor(strategy="weighted_style", clip=clip, beta=30.0, eta=0.2, descriptors=1), forgetting
    )
    anchors = objective.anchors(batch_of(forgetting, [0] * 2000))
    green = sum(text.rpartition("featuring ")[2] in COLOURS["green"] for text in anchors) / 2000
    model = CLIPTextModelWithProjection.from_pretrained(clip)
    tokenizer = word_tokenizer(list(Coloured().load().prompts or ()))

    def embed(text: str) -> np.ndarray:
        tokens = tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            found = model(tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds[0].numpy()
        return np.asarray(found / np.linalg.norm(found))

    words = embed(", ".join(COLOURS["red"]))
    weights = []
    for style in ("green", "blue"):
        prototype = np.mean([embed(word) for word in sorted(COLOURS[style])], axis=0)
        weights.append(np.exp(30 * words @ prototype / np.linalg.norm(prototype)))
    expected = 0.8 * weights[0] / sum(weights) + 0.1
    assert abs(green - expected) < 0.04


def test_without_its_style_a_prompt_names_the_content_alone(forgetting: UnlearnDataModule) -> None:
    objective = bound(Anchor(strategy="style_removed"), forgetting)
    assert objective.anchors(batch_of(forgetting, [0, 3])) == ["A depiction of 0", "A depiction of 1"]


def test_a_match_is_the_same_picture_in_another_style(forgetting: UnlearnDataModule) -> None:
    objective = bound(Anchor(strategy="matched_retain"), forgetting)
    anchors = set(objective.anchors(batch_of(forgetting, [3] * 50)))
    prompts = forgetting.parent.sample_prompts
    assert anchors == {prompts[4], prompts[5]}  # picture 1 in green and in blue


@pytest.mark.parametrize("strategy", ["uniform_style", "style_removed", "matched_retain"])
def test_the_target_is_the_full_models_answer_to_the_anchor(
    strategy: str, forgetting: UnlearnDataModule
) -> None:
    module = LatentDiffusionModule(forgetting.parent.encoders.pretrained)  # type: ignore[attr-defined]
    full = FullModel.of(module).prompted(forgetting.parent.prompts).model
    objective = bound(Anchor(strategy=strategy), forgetting)  # type: ignore[arg-type]
    batch = batch_of(forgetting, [0, 3, 6])
    known = len(forgetting.parent.prompts)  # type: ignore[arg-type]
    torch.manual_seed(3)
    with torch.no_grad():
        term = objective.forget_term(batch, full, full)
    torch.manual_seed(3)
    anchors = objective.anchors(batch)
    states = forgetting.parent.encoders.embeddings(anchors)["encoder_hidden_states"]  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = module.denoiser(batch.x_t, batch.timesteps, encoder_hidden_states=states).sample
    torch.testing.assert_close(term.target, expected, rtol=1e-4, atol=1e-5)
    assert term is not None and term.weight is None
    assert len(forgetting.parent.prompts) == known  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")  # the frozen full model
def test_unlearning_moves_forgotten_prompts_towards_their_anchors(
    forgetting: UnlearnDataModule, tmp_path: Path
) -> None:
    from lightning.pytorch import Trainer

    module = LatentDiffusionModule(forgetting.parent.encoders.pretrained)  # type: ignore[attr-defined]
    for name, parameter in module.denoiser.named_parameters():
        if "attn2.to_v" in name:
            parameter.data *= 10  # an untrained network hardly hears its prompt
    full = FullModel.of(module).prompted(forgetting.parent.prompts)
    student = UnlearnModule(
        full, Anchor(strategy="style_removed"), ["red"], lambda p: torch.optim.Adam(p, 3e-4)
    )
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_steps=60,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    trainer.fit(student, datamodule=forgetting)
    objective = bound(Anchor(strategy="style_removed"), forgetting)
    batch = batch_of(forgetting, [0, 3, 6, 9] * 8)
    with torch.no_grad():
        target = objective.forget_term(batch, full.model, full.model).target
        before = (full.model.output(batch.x_t, batch.timesteps, batch.labels) - target).square().mean()
        student.eval()
        after = (student.student.output(batch.x_t, batch.timesteps, batch.labels) - target).square().mean()
    assert after < 0.5 * before


def test_operators_are_named_after_strategies(clip: str) -> None:
    assert Anchor(strategy="weighted_style", clip=clip).operator == "weighted_style"
    assert Anchor(strategy="style_removed", preserve="denoise").operator == "style_removed_denoise"
    hparams = Anchor(strategy="weighted_style", clip=clip, beta=1.0).hparams
    assert hparams == {
        "forget_weight": 1.0,
        "preserve": "distill",
        "strategy": "weighted_style",
        "template": PromptTemplate().templates,
        "descriptors": 3,
        "beta": 1.0,
        "eta": 0.3,
        "clip": hparams["clip"],
    }
    assert len(str(hparams["clip"])) == 64  # its weights, wherever they lie
    assert "beta" not in Anchor(strategy="uniform_style").hparams


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"strategy": "nearest"},
            "invalid strategy of Anchor\n"
            "  found:    nearest\n"
            "  expected: weighted_style, uniform_style, style_removed, matched_retain\n"
            "  fix:      set objective.init_args.strategy to such a value",
        ),
        (
            {},
            "anchors weighted by nearness need a CLIP\n"
            "  found:    clip=null\n"
            "  expected: the folder or the hub name of a CLIP\n"
            "  fix:      set objective.init_args.clip, or strategy to uniform_style",
        ),
        (
            {"strategy": "uniform_style", "descriptors": 0},
            "invalid descriptors of Anchor\n"
            "  found:    0\n"
            "  expected: descriptors >= 1\n"
            "  fix:      set objective.init_args.descriptors to such a value",
        ),
        (
            {"strategy": "uniform_style", "eta": 1.5},
            "invalid eta of Anchor\n"
            "  found:    1.5\n"
            "  expected: 0 <= eta <= 1\n"
            "  fix:      set objective.init_args.eta to such a value",
        ),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Anchor(**options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_images_without_prompts_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        bound(Anchor(strategy="style_removed"), GroupDataModule(Digits()).unlearning(["3"]))
    assert str(caught.value) == (
        "anchors need training data with prompts\n"
        "  found:    UnlearnDataModule of images without texts\n"
        "  expected: prompts, in which an anchor replaces the style\n"
        "  fix:      take a LatentDataModule, or another objective such as ReTrack"
    )


def test_a_clip_that_is_not_there_is_refused(forgetting: UnlearnDataModule, tmp_path: Path) -> None:
    objective = Anchor(strategy="weighted_style", clip=str(tmp_path))
    with pytest.raises(StoreError) as caught:
        objective.hparams  # noqa: B018
    assert str(caught.value).splitlines()[0] == f"the CLIP {tmp_path} cannot be read"
    assert str(caught.value).splitlines()[2:] == [
        "  expected: a folder with tokenizer and weights of a CLIP, or a name on the hub",
        "  fix:      set objective.init_args.clip, e.g. to openai/clip-vit-large-patch14",
    ]


def test_pictures_in_one_style_alone_have_no_match(data: LatentDataModule) -> None:
    only = data.unlearning(["red"])
    data.__dict__["_listed"] = data._listed.__class__(
        **{**vars(data._listed), "ids": ("alone", *data.ids[1:])}
    )
    with pytest.raises(DataError) as caught:
        bound(Anchor(strategy="matched_retain"), only)
    assert str(caught.value) == (
        "1 of 6 pictures to forget are in no other style\n"
        "  found:    'alone', and no id that differs from it in the name of the group alone\n"
        "  expected: ids such as 'Van_Gogh/Dogs/3.jpg' and 'Cubism/Dogs/3.jpg'\n"
        "  fix:      name the samples so, or take another strategy"
    )


def test_groups_inside_the_forgotten_one_lend_no_words(data: LatentDataModule) -> None:
    """A parent of red and green is forgotten: only blue stays."""
    members = {name: data.grouping.forget([name]) for name in COLOURS}
    warm = np.sort(np.concatenate([members["red"], members["green"]]))
    nested = data.regrouped(Grouping({**members, "warm": warm}, len(data.ids)))
    objective = bound(Anchor(strategy="uniform_style", descriptors=1), nested.unlearning(["warm"]))
    words = {
        text.rpartition("featuring ")[2]
        for text in objective.anchors(batch_of(data.unlearning(["red"]), [0] * 50))
    }
    assert words == set(COLOURS["blue"])


def test_without_another_style_there_is_nothing_to_borrow(data: LatentDataModule) -> None:
    alone = data.regrouped(Grouping({"red": data.grouping.forget(["red"])}, len(data.ids)))
    with pytest.raises(DataError) as caught:
        bound(Anchor(strategy="uniform_style"), alone.unlearning(["red"]))
    assert str(caught.value) == (
        "no other style stays without red\n"
        "  found:    no group with samples that are retained\n"
        "  expected: at least one, whose words an anchor prompt borrows\n"
        "  fix:      take the strategy style_removed, or group the other samples too"
    )


def test_prompts_without_words_for_a_style_are_refused(forgetting: UnlearnDataModule) -> None:
    template = PromptTemplate(["A depiction of {content}, drawn as {style}"])
    with pytest.raises(DataError) as caught:
        bound(Anchor(strategy="style_removed", template=template), forgetting)
    assert str(caught.value) == (
        "4 prompts to forget have no words for a style: anchors would replace nothing\n"
        "  found:    'A depiction of 0, artistic style featuring warm, hot'\n"
        "  expected: descriptors, as in 'A depiction of {content}, drawn as {style}'\n"
        "  fix:      set objective.init_args.template to the form of your prompts"
    )
