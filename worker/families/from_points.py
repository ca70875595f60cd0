"""Pictures drawn from points of the space of image embeddings: the passes around a decoder that reads such a point.

First the prior, once for each text among the points; then, where a picture is to be kept, its way back to noise; then
the decoder. Knows how points are had. Refuses to know how the decoder reads one: its family says that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import torch

from app.contract.messages.unclip import ImageEmbedding
from worker.engine.errors import EngineError, GenerationFailed, engine_error
from worker.engine.family import Asked, Inputs, Prepared
from worker.engine.passes import Before, Pass
from worker.engine.request import Request
from worker.engine.solver import Schedule
from worker.engine.transfer import to_device
from worker.families.image_encoder import ImageEncoder
from worker.families.inputs import InputPictures
from worker.families.inversion import FromLatents, FromPicture, inverted
from worker.families.points import EMBEDDING, Points, asked_of, difference, pictures_of, texts_of, vector_of
from worker.families.prior import Prior
from worker.families.text import Embedding
from worker.models.bundle import Bundle

DECODER = "decoder"
INVERSION = "inversion"
"""What the passes behind a prior's are called where progress is told."""

TEXT, BEFORE, AFTER = "text_embedding", "from_embedding", "to_embedding"
"""What an image embedding is compared with: the embedding of the one text, or of the two that a way is between."""

NO_PRIOR = "This model has no prior: it draws from pictures and vectors that image_embedding names, not from a text."
NO_ENCODER = "This model has no image encoder: it draws from texts and vectors, not from pictures."
NO_TEXT = "The negative prompt had no effect: this model reads it as it reads a text, through its prior."
NO_PICTURE = "start=inverted needs the picture that is to be kept: image_embedding.of."

Tensors = Mapping[str, torch.Tensor]
Condition = Callable[[torch.Tensor, torch.Tensor | None, Request, torch.Generator], tuple[Tensors, Tensors]]
"""How a decoder reads an embedding, float32 [D] on the device: tensors of its conditional row, and of its unconditional
one. The second is what the prior made of the negative prompt, if it did. May draw from the sample's generator."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Read:
    """A request's points, those of its texts that go through the prior, and the negative one that goes with each."""

    points: Points
    texts: Sequence[Embedding] = ()
    negative: Embedding | None = None


class FromPoints:
    """Of one model, whose decoder reads an embedding of `dimensions` numbers as `condition` says; and an embedding of
    the negative prompt beside it, if it `reads_negative`."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        prior: Prior | None,
        dimensions: int,
        condition: Condition,
        pictures: InputPictures,
        reads_negative: bool = False,
    ) -> None:
        self.prior = prior
        self.image_encoder = ImageEncoder(bundle) if bundle.sees_pictures else None
        self._reads_negative = reads_negative
        self._dimensions = dimensions
        self._condition = condition
        self._pictures = pictures
        self._device = bundle.device

    def schedules(self, request: Request, decoder: Schedule) -> list[Schedule]:
        """Of all passes, around the decoder's. Raises GenerationFailed for what the model has not."""
        texts, asked = texts_of(request), asked_of(request)
        if (texts or asked.diff) and self.prior is None:
            raise GenerationFailed(NO_PRIOR)
        if pictures_of(request) and self.image_encoder is None:
            raise GenerationFailed(NO_ENCODER)
        before = [self.prior.schedule(self.prior.steps_of(request)) for _ in texts if self.prior]
        back = [inverted(decoder)] if request.start == "inverted" else []
        return [*before, *back, decoder]

    def bring(self, request: Request) -> list[Future[Any]]:
        """See Family."""
        named, encoder = pictures_of(request), self.image_encoder
        return encoder.bring(request.id, named, alone=request.reproducible) if encoder and named else []

    def close(self, request: Request) -> None:
        """See Family."""
        if self.image_encoder:
            self.image_encoder.close(request.id)

    def inputs(self, request: Request) -> Inputs:
        """The picture that is kept, for the autoencoder. Raises GenerationFailed where there is none."""
        if request.start != "inverted":
            return Inputs()
        kept = asked_of(request).of
        if kept is None:
            raise GenerationFailed(NO_PICTURE)
        return Inputs([self._pictures.picture(request.pictures[kept.sha256], request)])

    def around(
        self, asked: Sequence[Asked], decoders: Sequence[Prepared | EngineError]
    ) -> list[Prepared | EngineError]:
        """For each request all of its passes, where `decoders` has its last one. Raises DeviceLost."""
        read = self._read([each.request for each in asked])
        return [self._whole(*each) for each in zip(asked, decoders, read, strict=True)]

    def _read(self, requests: Sequence[Request]) -> list[_Read | EngineError]:
        texts = self._texts(requests)
        return [self._points(request, own) for request, own in zip(requests, texts, strict=True)]

    def _texts(self, requests: Sequence[Request]) -> Sequence[Sequence[Embedding] | EngineError]:
        """Of each request the negative text, then those that the prior gets, then the two of a difference."""
        if self.prior is None:
            return [[] for _ in requests]
        diffs = [asked_of(request).diff for request in requests]
        texts = [
            [*self._negative(request), *texts_of(request), *((diff.before, diff.to) if diff else ())]
            for request, diff in zip(requests, diffs, strict=True)
        ]
        return self.prior.read(texts, alone=[request.reproducible for request in requests])

    def _negative(self, request: Request) -> list[str]:
        """The negative prompt, if the prior makes something of it: with each of its texts, from the same draws."""
        given = request.negative_prompt
        return [given] if self._reads_negative and given is not None and texts_of(request) else []

    def _points(self, request: Request, texts: Sequence[Embedding] | EngineError) -> _Read | EngineError:
        if isinstance(texts, EngineError):
            return texts
        try:
            asked, before = asked_of(request), len(self._negative(request))
            negative, of_prior = texts[:before], texts[before : before + len(texts_of(request))]
            known = self._known(request)
            vectors = [text.pooled.float() for text in texts[before:] if text.pooled is not None]
            direction = difference(*vectors[-2:]) if asked.diff else None
            names = _compared(asked)
            # The texts of a difference are the last.
            told = zip(names, vectors[len(vectors) - len(names) :], strict=True)
            beside = {name: vector for name, vector in told if len(vector) == self._dimensions}
        except Exception as error:
            return engine_error(error, stage="prepare")
        return _Read(Points(asked, known, direction, beside), of_prior, negative[0] if negative else None)

    def _known(self, request: Request) -> list[torch.Tensor | None]:
        """The request's points, None for those that the prior makes."""
        named = {sha256: request.pictures[sha256] for sha256 in pictures_of(request)}
        made = self.image_encoder.read(named, alone=request.reproducible) if self.image_encoder and named else {}
        known: list[torch.Tensor | None] = []
        for point in asked_of(request).points:
            if point.text is not None:
                known.append(None)
                continue
            vector = made[point.of.sha256] if point.of else vector_of(point, self._dimensions)
            if isinstance(vector, EngineError):
                raise vector
            known.append(to_device(vector, self._device))
        return known

    def _whole(
        self, asked: Asked, decoder: Prepared | EngineError, read: _Read | EngineError
    ) -> Prepared | EngineError:
        if isinstance(decoder, EngineError):
            return decoder
        if isinstance(read, EngineError):
            return read
        [last], request = decoder.passes, asked.request
        try:
            before = self._of_prior(request, read, asked)
            back = self._back(replace(last, solver=asked.solvers[-2]), asked, read.points) if asked.encoded else []
        except Exception as error:
            return engine_error(error, stage="prepare")
        stage = DECODER if before or back else None
        last = replace(last, stage=stage, complete=self._reading(request, read.points))
        warnings = [*decoder.warnings, *unread(read.texts)]
        if self._reads_negative and request.negative_prompt and not read.negative:
            warnings.append(NO_TEXT)
        return replace(decoder, passes=[*before, *back, last], warnings=warnings)

    def _of_prior(self, request: Request, read: _Read, asked: Asked) -> list[Pass]:
        """Each begins with the same noise, so that the ends of a way are what their texts alone would give."""
        scale = self.prior.scale_of(request) if self.prior else 0.0
        return [
            replace(self.prior.pass_for(text, solver, guidance_scale=scale, negative=read.negative), complete=_afresh)
            for text, solver in zip(read.texts, asked.solvers, strict=False)
            if self.prior
        ]

    def _back(self, decoder: Pass, asked: Asked, points: Points) -> list[Pass]:
        """From the picture that is kept to its noise, while the decoder reads it as what it is."""
        own = points.known[0]
        assert own is not None, "This is a bug: a picture that is kept is a point."

        def complete(of: Pass, before: Before) -> Pass:
            return self._conditioned(_afresh(of, before), own, None, asked.request, before)

        return [replace(decoder, stage=INVERSION, start=FromPicture(asked.encoded[0]), complete=complete)]

    def _reading(self, request: Request, points: Points) -> Callable[[Pass, Before], Pass]:
        """The decoder's last word before it begins: it reads the embedding of its own picture."""
        through_prior = len(texts_of(request))
        negative = bool(self._negative(request))

        def complete(of: Pass, before: Before) -> Pass:
            # Where a point is none of the prior's, what the prior draws for another one must not change the noise.
            of = _afresh(of, before) if points.from_pictures else of
            of = replace(of, start=FromLatents(before.ended[-1])) if request.start == "inverted" else of
            made = [self.prior.embeddings(each) for each in before.ended[:through_prior] if self.prior]
            embedding = points.embedding(before.index, [each[0] for each in made])
            of = replace(of, found={EMBEDDING: embedding, **points.beside})
            return self._conditioned(of, embedding, made[0][1] if negative else None, request, before)

        return complete

    def _conditioned(
        self, of: Pass, embedding: torch.Tensor, away: torch.Tensor | None, request: Request, before: Before
    ) -> Pass:
        conditional, unconditional = self._condition(embedding, away, request, before.generator)
        rows = replace(of.rows, conditional={**of.rows.conditional, **conditional})
        if rows.is_guided:
            rows = replace(rows, unconditional={**rows.unconditional, **unconditional})
        return replace(of, rows=rows)


def _compared(asked: ImageEmbedding) -> list[str]:
    """What an embedding is compared with, in the order in which the texts are read: those that a way is between, as far
    as its ends are texts, or the one text."""
    if asked.diff:
        return [BEFORE, AFTER]
    names = (TEXT,) if asked.slerp is None else (BEFORE, AFTER)
    return [name for name, point in zip(names, asked.points, strict=True) if point.text is not None]


def _afresh(of: Pass, before: Before) -> Pass:
    """As if nothing had been drawn so far."""
    before.generator.manual_seed(before.generator.initial_seed())
    return of


def unread(texts: Sequence[Embedding]) -> list[str]:
    """A warning about each text that the prior has no place for."""
    return [
        f"The prior read only the first {text.tokens_read} tokens of a text; not read: {text.unread!r}."
        for text in texts
        if text.unread
    ]
