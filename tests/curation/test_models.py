"""Steps that run networks, with tiny ones; what they say without weights."""

import numpy as np
import pytest
import torch

from tests.curation.clips import moving, texture, write
from tests.curation.steps import rows_of, table_of, write_rows
from tests.curation.tiny_models import IMAGE_SIDE, WORDS, make_clip, make_head, make_llava
from vidtron.curation.caption import Caption
from vidtron.curation.clip_scores import Aesthetic, Match
from vidtron.curation.frames import frames_at, frames_at_shares
from vidtron.curation.table import CurationError

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def videos(tmp_path):
    """A video, and a file that is none."""
    write(tmp_path / "raw", {"a.mp4": moving(1, 1, 0, 20), "b.mp4": b"no video"})
    return tmp_path / "raw"


def test_preprocessing_is_clips_own(clip_folder):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from vidtron.curation.clip_network import ClipNetwork

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIDE}, crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    )
    clip = ClipNetwork(clip_folder, torch.device("cpu"))
    for frame in (texture(0), texture(1, 64, 40), texture(2, 16, 24)):
        theirs = processor(images=[frame], return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(clip._pixels(frame), theirs, atol=2e-2)


def test_aesthetic(videos, tmp_path, clip_folder):
    """Against the definition: features of length 1, five linear layers, mean over frames."""
    from vidtron.curation.clip_network import ClipNetwork

    head = make_head(tmp_path / "head.pth")
    step = Aesthetic(clip=clip_folder, head=head, device="cpu")
    good, bad = rows_of(step, table_of(videos, tmp_path / "0.parquet"))
    features = ClipNetwork(clip_folder, step.torch_device(0)).image_features(
        frames_at_shares(videos / "a.mp4", (0.1, 0.5, 0.9))
    )
    assert torch.allclose(features.norm(dim=-1), torch.ones(3))
    state = torch.load(head)
    for number in (0, 2, 4, 6, 7):
        features = features @ state[f"layers.{number}.weight"].T + state[f"layers.{number}.bias"]
    assert good["aesthetic"] == pytest.approx(float(features.mean()), rel=1e-5)
    assert bad["aesthetic"] is None and bad["error"].startswith("aesthetic: ")


def test_shares_are_frames_of_the_clip(videos):
    wanted = frames_at(videos / "a.mp4", [2, 10, 18, 19, 19])
    assert all(map(np.array_equal, frames_at_shares(videos / "a.mp4", (0.1, 0.5, 0.9, 1.0)), wanted))
    assert np.array_equal(frames_at(videos / "a.mp4", [99])[0], wanted[3])


def test_match(videos, tmp_path, clip_folder):
    from transformers import AutoTokenizer, CLIPModel

    from vidtron.curation.clip_network import ClipNetwork

    texts = ["a dog runs", "the street", None]
    rows = [{"path": str(videos / "a.mp4"), "text": text} for text in texts]
    rows.append({"path": str(videos / "a.mp4"), "text": "a dog runs on the street " * 5})  # longer than CLIP reads
    first, second, without, long = rows_of(
        Match(clip=clip_folder, device="cpu"), write_rows(tmp_path / "in.parquet", rows)
    )
    model = CLIPModel.from_pretrained(clip_folder).eval()
    pixels = ClipNetwork(clip_folder, torch.device("cpu"))._pixels(frames_at(videos / "a.mp4", [10])[0])[None]
    tokens = AutoTokenizer.from_pretrained(clip_folder)(texts[:2], padding=True, return_tensors="pt")
    for row, text in zip((first, second), texts, strict=False):
        tokens = AutoTokenizer.from_pretrained(clip_folder)(text, return_tensors="pt")
        logits = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
        ).logits_per_image
        assert row["match"] == pytest.approx(logits.item(), rel=1e-4)
    assert first["match"] != second["match"]
    assert without["error"] == "match: it has no caption in the column text"
    assert long["error"] is None and abs(long["match"]) <= 100


@pytest.mark.parametrize(("template", "shares"), [(True, (0.1, 0.5, 0.9)), (False, (0.5,))])
def test_caption(videos, tmp_path, template, shares):
    model = make_llava(tmp_path / "llava", template)
    step = Caption(model=model, shares=shares, prompt="a video", max_new_tokens=6, device="cpu")
    good, bad = rows_of(step, table_of(videos, tmp_path / "0.parquet"))
    assert good["error"] is None
    assert set(good["text"].split()) <= set(WORDS) and 1 <= len(good["text"].split()) <= 6
    assert bad["error"].startswith("caption: ")


@pytest.mark.parametrize(
    ("step", "messages"),
    [
        (
            Aesthetic(),
            ["aesthetic --clip: missing; accepted: a local folder with", "aesthetic --head: missing"],
        ),
        (Match(), ["match --clip: missing"]),
        (Caption(), ["caption --model: missing"]),
    ],
)
def test_without_weights(tmp_path, step, messages):
    source = write_rows(tmp_path / "in.parquet", [{"path": "a.mp4", "text": "x"}])
    with pytest.raises(CurationError) as caught:
        rows_of(step, source)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(messages)
    assert all(line.startswith(message) for line, message in zip(lines, messages, strict=True))


def test_folders_of_something_else(tmp_path, clip_folder):
    (tmp_path / "empty").mkdir()
    source = write_rows(tmp_path / "in.parquet", [{"path": "a.mp4", "text": "x"}])
    for step, message in (
        (Match(clip=tmp_path / "empty"), "holds no config.json, no weights (.safetensors, .bin), no tokenizer"),
        (Aesthetic(clip=tmp_path / "none", head=tmp_path / "none.pth"), "no such folder"),
        (Aesthetic(clip=clip_folder, head=make_head(tmp_path / "h.pth", 8)), "takes 8 features"),
    ):
        with pytest.raises(CurationError) as caught:
            rows_of(step, source)
        assert message in str(caught.value)
