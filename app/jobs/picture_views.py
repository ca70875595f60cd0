"""Finished pictures in the bodies that go out: each with its links, and with what was kept of its steps.

Knows shapes. Refuses to make links: they are handed to it, by object key.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field

from app.contract.messages.job import KeptTrajectory, Picture, StoredFile


class PreviewsView(BaseModel):
    """How a picture emerged: its previews in one file, row by row, each of width x height pixels."""

    url: str
    sha256: str
    bytes: int
    content_type: str
    width: int
    height: int
    columns: int
    steps: list[int] = Field(description="After how many model evaluations each was made; as many as there are frames")


class FileView(BaseModel):
    """A file beside a picture. The link is like the picture's."""

    url: str
    sha256: str
    bytes: int
    content_type: str

    @classmethod
    def of(cls, file: StoredFile, links: Mapping[str, str]) -> FileView:
        return cls(url=links[file.key], **file.model_dump(exclude={"key"}))


class TrajectoryView(BaseModel):
    """The steps of a picture, kept for jobs with `trajectory`."""

    url: str = Field(
        description="What each step is, as JSON; with .safetensors, .webp or .jpg behind it the other files"
    )
    steps: int = Field(description="As many as were kept, the first noise and the last step among them")
    files: dict[str, FileView] = Field(
        description="json: what each step is; safetensors: the latents; webp: a film; jpg: a sheet of frames"
    )

    @classmethod
    def of(cls, kept: KeptTrajectory, links: Mapping[str, str], *, url: str) -> TrajectoryView:
        files = {extension: FileView.of(file, links) for extension, file in kept.files.items()}
        return cls(url=url, steps=kept.steps, files=files)


class EmbeddingView(BaseModel):
    """The image embedding that a picture was drawn from."""

    kind: str = Field(description="prior: made of a text; image: of a picture; vector; slerp or diff: on a way")
    cosine_to: dict[str, float] = Field(
        description="How near it is to the text, or to those that the way is `from` and `to`; empty without texts"
    )


class ImageView(BaseModel):
    """One finished picture. The link needs no key and works for a while (an hour, unless the operator says otherwise);
    ask for the job to get a new one."""

    index: int
    url: str
    sha256: str
    seed: int
    width: int
    height: int
    content_type: str
    bytes: int
    previews: PreviewsView | None = Field(description="Kept for jobs with `keep_previews`")
    trajectory: TrajectoryView | None = Field(description="Kept for jobs with `trajectory`")
    at: float | None = Field(description="Where it is on a way between two image embeddings")
    embedding: EmbeddingView | None = Field(description="What an unCLIP model drew it from")
    embedding_url: str | None = Field(description="Those vectors, as safetensors; works as long as `url` does")
    nsfw: bool | None = Field(description="Flagged by the model's safety checker; null: it did not look, see `safety`")
    score: float | None = Field(description="How well it fits what is expected, as the job's `selection` tells")
    probability: float | None = Field(description="That it fits each of the expected texts")

    @classmethod
    def of(cls, picture: Picture, links: Mapping[str, str], *, job_url: str) -> ImageView:
        sheet, kept = picture.previews, picture.trajectory
        previews = sheet and PreviewsView(url=links[sheet.key], **sheet.model_dump(exclude={"key"}))
        own = f"{job_url}/images/{picture.index}"
        trajectory = kept and TrajectoryView.of(kept, links, url=f"{own}/trajectory")
        vectors = picture.embedding and links[picture.embedding.file.key]
        others = picture.model_dump(exclude={"key", "previews", "trajectory"})
        return cls(url=links[picture.key], previews=previews, trajectory=trajectory, embedding_url=vectors, **others)
