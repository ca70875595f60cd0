"""What the gateway says when it says no. One tree, one JSON shape (RFC 9457); the one handler is in error_handler.py.

Below Problem one class for each thing to say, in the order of their statuses; a class below another says the same more
closely. The docstring of a class is what its page under /problems/ says. An answer never repeats what the caller sent.
"""

from __future__ import annotations

from app.edge.problem import Problem


class InvalidHeader(Problem, status=400, slug="invalid-header", title="A header cannot be used"):
    """A header of the request is missing, doubled or of a form that it may not have."""


class MalformedJson(Problem, status=400, slug="malformed-json", title="The body is not strict JSON"):
    """The body is not the strict JSON that this service reads. It must be UTF-8 without a byte order mark, name every
    key once, hold no NaN or Infinity and nest at most 16 deep."""


class MalformedForm(Problem, status=400, slug="malformed-form", title="The form cannot be read"):
    """The body is no multipart/form-data as RFC 7578 has it, or has more parts than any form here. Let your HTTP
    library write it: it draws the boundary and puts it into the Content-Type."""


class ContentBlocked(Problem, status=400, slug="content-blocked", title="The pictures are not shown"):
    """The job was drawn, and its model's safety checker flagged every picture. Another seed or other words may help."""


class Unauthenticated(Problem, status=401, slug="unauthenticated", title="A valid key is needed"):
    """The request bears no key, or one that is not known. Send `Authorization: Bearer <key>`; programs that have a
    user and a password instead may send any user, and the key as the password."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="darkroom"'})


class Forbidden(Problem, status=403, slug="forbidden", title="The key may not do this"):
    """The key is good, but may not do this: the operator gave it other scopes. A scope is read, write or admin."""


class OtherPage(Forbidden, slug="other-page", title="A page of another site asks"):
    """A page of another site asks for a change where nobody needs a key. Its origin may be in DARKROOM_CORS_ORIGINS."""


class TooManyInputs(Problem, status=403, slug="too-many-inputs", title="Your pictures take too much room"):
    """The pictures that you sent in take as many bytes as one tenant's may. Delete some, or wait until they go."""


class LinkInvalid(Problem, status=403, slug="link-invalid", title="The link is not one of ours"):
    """The picture link was changed or was not made by this service. Ask for the job to get a link that works."""


class LinkExpired(LinkInvalid, slug="link-expired", title="The link's time is over"):
    """Picture links work for a while: an hour, unless the operator says otherwise. Ask for the job to get a new one."""


class NotFound(Problem, status=404, slug="not-found", title="There is nothing here"):
    """Nothing is served at this path. The paths are listed in /openapi.json."""


class JobNotFound(NotFound, slug="job-not-found", title="There is no such job"):
    """The id is not that of a job, the job has been deleted, or it belongs to somebody else."""

    usual = "No job of yours has this id. It may have been deleted or its time of keeping may be over."


class JobLost(JobNotFound, slug="job-lost", title="The job is lost"):
    """The job was accepted, and the queue has lost its last moments in a failure. Send the request again."""


class PictureNotFound(NotFound, slug="picture-not-found", title="There is no such picture"):
    """The job has no such picture: not finished, fewer, or deleted. Or no LoRA has a thumbnail of this hash."""


class InputNotFound(NotFound, slug="input-not-found", title="There is no such input"):
    """The id is not that of a picture that you have sent in, or it has been deleted, or its time of keeping is over."""

    usual = "No picture that you sent in has this id. Its time of keeping may be over: send it again."


class ModelNotFound(NotFound, slug="model-not-found", title="There is no such model"):
    """No worker has announced a model of this name or version. GET /v1/models lists those that are served."""

    usual = "No such model is served here; GET /v1/models lists those that are."


class WorkerNotFound(NotFound, slug="worker-not-found", title="There is no such worker"):
    """No worker of this name was heard of in the last half a minute. GET /v1/admin/workers lists those that were."""


class WebhookNotFound(NotFound, slug="webhook-not-found", title="There is no such webhook message"):
    """Nothing of this kind was ever owed for the job: it has no webhook, or not for this event, or not yet."""


class MethodNotAllowed(Problem, status=405, slug="method-not-allowed", title="The method is not allowed here"):
    """The path exists but does not take this method. The `Allow` header lists those it takes."""


class BodyTooSlow(Problem, status=408, slug="body-too-slow", title="The body took too long"):
    """The body of the request did not arrive in the time that is given to it. Send it again."""


class JobIsOver(Problem, status=409, slug="job-is-over", title="The job is over"):
    """The job has succeeded or failed already, so there is nothing left to cancel."""


class JobStillRunning(Problem, status=409, slug="job-still-running", title="The job is still running"):
    """The job is being canceled and can be deleted as soon as its worker has let go of it."""


class JobNotRetryable(Problem, status=409, slug="job-not-retryable", title="The job cannot be run again"):
    """Only a job that has failed can be run again, and only on a model that the service knows. Else send a new one."""


class JobWasCanceled(Problem, status=409, slug="job-was-canceled", title="The job was canceled"):
    """Somebody called the job off while this request waited for its pictures."""


class WorkerCannotDrain(Problem, status=409, slug="worker-cannot-drain", title="The worker cannot be told"):
    """The worker is of a release that cannot be told to drain. SIGTERM has it finish what it can, and leave."""


class WorkerHasLeft(Problem, status=409, slug="worker-has-left", title="The worker has left"):
    """The worker had ended before its drain was taken back. Start it again where it ran: one of `darkroom up` comes
    with the next `darkroom up`."""

    usual = "It had ended before the drain was taken back. Start it again where it ran, or with the next `darkroom up`."


class InputInUse(Problem, status=409, slug="input-in-use", title="The input is needed"):
    """A job that is not over needs the picture. It can be deleted when its jobs are over, or have been canceled."""


class JobDeleted(Problem, status=410, slug="job-deleted", title="The job of this key is deleted"):
    """The Idempotency-Key was used before, for a job that has since been deleted. Use a new key for a new job."""


class BodyTooLarge(Problem, status=413, slug="body-too-large", title="The body is too large"):
    """The body is larger than the route takes: 64 KiB of JSON, and more where pictures come in. The detail says it."""


class UnsupportedMediaType(
    Problem, status=415, slug="unsupported-media-type", title="The body is of a type that is not taken here"
):
    """Bodies are JSON in UTF-8, not compressed: `Content-Type: application/json`. A few routes take pictures or forms:
    the detail lists their types."""


class RangeNotSatisfiable(Problem, status=416, slug="range-not-satisfiable", title="The range is outside the picture"):
    """The Range begins after the last byte of the picture."""


class WrongHost(Problem, status=421, slug="wrong-host", title="This is another host"):
    """The Host header names a server that this is not. The operator lists the names in DARKROOM_ALLOWED_HOSTS."""


class OtherCell(Problem, status=421, slug="other-cell", title="It is in another cell"):
    """The end of the id names another cell of the service. `location` is the address of the same request there."""


class InvalidRequest(Problem, status=422, slug="invalid-request", title="The request cannot be fulfilled as it is"):
    """The request was understood but asks for something that cannot be. `errors` says what, field by field: `pointer`
    is a JSON pointer into the body, `parameter` names a part of the query."""


class IdempotencyKeyReused(
    InvalidRequest, slug="idempotency-key-reused", title="The Idempotency-Key belongs to another request"
):
    """An Idempotency-Key names one request for 24 hours. A request with another body needs another key."""


class PictureUnusable(InvalidRequest, slug="picture-unusable", title="The picture cannot be used"):
    """What was sent in is no picture that can be drawn from; `errors` says why. Taken are PNG, JPEG and WebP with one
    frame and at most 16 megapixels, whole, of the type that is said of them."""


class RateLimited(Problem, status=429, slug="rate-limited", title="Too much in too short a time"):
    """The key has used up what it may use in this minute. The `RateLimit` header says how much there is, and when."""


class QueueFull(Problem, status=429, slug="queue-full", title="The queue is full"):
    """As many jobs wait for the model as the service keeps. Retry-After is computed from the present pace."""


class TooManyJobs(Problem, status=429, slug="too-many-jobs", title="Too many of your jobs are unfinished"):
    """You have as many unfinished jobs as one tenant may have. Wait for some to finish, or cancel some."""


class HeadTooLarge(Problem, status=431, slug="head-too-large", title="The headers are too large"):
    """The headers are larger than 32 KiB together, or more than 100."""


class InternalError(Problem, status=500, slug="internal-error", title="Something broke here"):
    """An error inside the service that is not your fault. The log has it under the request id."""


class JobFailed(Problem, status=500, slug="job-failed", title="The job failed"):
    """The job that this request waited for has failed. The detail is that of the job; trying again will not help."""


class NotServedHere(Problem, status=501, slug="not-served-here", title="This service cannot do that"):
    """A route of another service's API that this one does not have. What there is, is listed in /openapi.json."""

    def __init__(self, detail: str) -> None:
        # OpenAI's clients would ask twice more.
        super().__init__(detail, headers={"x-should-retry": "false"})


class Unavailable(Problem, status=503, slug="unavailable", title="Not available at the moment"):
    """Something that the service needs is away for the moment. Try again after the time in Retry-After."""

    def __init__(self, detail: str, *, retry_after: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class NoModelYet(Unavailable, slug="no-model-yet", title="No model is ready yet"):
    """No worker has announced a model yet. Workers do so a few seconds after they start."""


class ModelAway(Unavailable, slug="model-away", title="Nobody serves the model now"):
    """No worker has served the model for longer than a restart takes. `POST /v1/jobs` still takes jobs for it."""


class ModelPaused(Unavailable, slug="model-paused", title="The model is paused"):
    """The operator has paused the model: its jobs are not drawn, and further ones are not taken, or not waited for. If
    it is known when the pause ends, Retry-After goes by it."""


class JobUnfinished(Unavailable, slug="job-unfinished", title="The job is not finished yet"):
    """The job goes on, but the request cannot wait longer for it. The same request sent again joins the same job."""


class TooManyUploads(Unavailable, slug="too-many-uploads", title="Too much comes in at the moment"):
    """So many large bodies come in at this moment that there was no room for one more. Nothing of it was kept."""


class QueueUnavailable(Unavailable, slug="queue-unavailable", title="The queue does not answer"):
    """The queue does not answer. What was accepted before is safe, unless `detail` says otherwise; try again soon."""


class QueueStorageFull(QueueUnavailable, slug="queue-storage-full", title="The queue has no memory left"):
    """The queue's memory is nearly used up; what is left is kept for jobs that are running."""


class PicturesUnavailable(Unavailable, slug="storage-unavailable", title="The picture store does not answer"):
    """The picture store does not answer."""


class PicturesFull(PicturesUnavailable, slug="storage-full", title="The picture store is full"):
    """The picture store is nearly full; what is left is kept for jobs that are running."""
