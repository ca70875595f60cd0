"""What the gateway says when it says no. One tree, one JSON shape (RFC 9457); the one handler is in error_handler.py.

Below Problem one class for each thing to say, in the order of their statuses; a class below another says the same more
closely. The docstring of a class is what its page under /problems/ says. An answer never repeats what the caller sent.
"""

from __future__ import annotations

from app.edge.problem import Problem


class InvalidHeader(Problem):
    """A header of the request is missing, doubled or of a form that it may not have."""

    status, slug, title = 400, "invalid-header", "A header cannot be used"


class MalformedJson(Problem):
    """The body is not the strict JSON that this service reads. It must be UTF-8 without a byte order mark, name every
    key once, hold no NaN or Infinity and nest at most 16 deep."""

    status, slug, title = 400, "malformed-json", "The body is not strict JSON"


class MalformedForm(Problem):
    """The body is no multipart/form-data as RFC 7578 has it, or has more parts than any form here. Let your HTTP
    library write it: it draws the boundary and puts it into the Content-Type."""

    status, slug, title = 400, "malformed-form", "The form cannot be read"


class ContentBlocked(Problem):
    """The job was drawn, and its model's safety checker flagged every picture. Another seed or other words may help."""

    status, slug, title = 400, "content-blocked", "The pictures are not shown"


class Unauthenticated(Problem):
    """The request bears no key, or one that is not known. Send `Authorization: Bearer <key>`; programs that have a
    user and a password instead may send any user, and the key as the password."""

    status, slug, title = 401, "unauthenticated", "A valid key is needed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="darkroom"'})


class Forbidden(Problem):
    """The key is good, but may not do this: the operator gave it other scopes. A scope is read, write or admin."""

    status, slug, title = 403, "forbidden", "The key may not do this"


class OtherPage(Forbidden):
    """A page of another site asks for a change where nobody needs a key. Its origin may be in DARKROOM_CORS_ORIGINS."""

    slug, title = "other-page", "A page of another site asks"


class TooManyInputs(Problem):
    """The pictures that you sent in take as many bytes as one tenant's may. Delete some, or wait until they go."""

    status, slug, title = 403, "too-many-inputs", "Your pictures take too much room"


class LinkInvalid(Problem):
    """The picture link was changed or was not made by this service. Ask for the job to get a link that works."""

    status, slug, title = 403, "link-invalid", "The link is not one of ours"


class LinkExpired(LinkInvalid):
    """Picture links work for a while: an hour, unless the operator says otherwise. Ask for the job to get a new one."""

    slug, title = "link-expired", "The link's time is over"


class NotFound(Problem):
    """Nothing is served at this path. The paths are listed in /openapi.json."""

    status, slug, title = 404, "not-found", "There is nothing here"


class JobNotFound(NotFound):
    """The id is not that of a job, the job has been deleted, or it belongs to somebody else."""

    slug, title = "job-not-found", "There is no such job"
    usual = "No job of yours has this id. It may have been deleted or its time of keeping may be over."


class JobLost(JobNotFound):
    """The job was accepted, and the queue has lost its last moments in a failure. Send the request again."""

    slug, title = "job-lost", "The job is lost"


class PictureNotFound(NotFound):
    """The job has no such picture: not finished, fewer, or deleted. Or no LoRA has a thumbnail of this hash."""

    slug, title = "picture-not-found", "There is no such picture"


class InputNotFound(NotFound):
    """The id is not that of a picture that you have sent in, or it has been deleted, or its time of keeping is over."""

    slug, title = "input-not-found", "There is no such input"
    usual = "No picture that you sent in has this id. Its time of keeping may be over: send it again."


class ModelNotFound(NotFound):
    """No worker has announced a model of this name or version. GET /v1/models lists those that are served."""

    slug, title = "model-not-found", "There is no such model"
    usual = "No such model is served here; GET /v1/models lists those that are."


class WorkerNotFound(NotFound):
    """No worker of this name was heard of in the last half a minute. GET /v1/admin/workers lists those that were."""

    slug, title = "worker-not-found", "There is no such worker"


class WebhookNotFound(NotFound):
    """Nothing of this kind was ever owed for the job: it has no webhook, or not for this event, or not yet."""

    slug, title = "webhook-not-found", "There is no such webhook message"


class MethodNotAllowed(Problem):
    """The path exists but does not take this method. The `Allow` header lists those it takes."""

    status, slug, title = 405, "method-not-allowed", "The method is not allowed here"


class BodyTooSlow(Problem):
    """The body of the request did not arrive in the time that is given to it. Send it again."""

    status, slug, title = 408, "body-too-slow", "The body took too long"


class JobIsOver(Problem):
    """The job has succeeded or failed already, so there is nothing left to cancel."""

    status, slug, title = 409, "job-is-over", "The job is over"


class JobStillRunning(Problem):
    """The job is being canceled and can be deleted as soon as its worker has let go of it."""

    status, slug, title = 409, "job-still-running", "The job is still running"


class JobNotRetryable(Problem):
    """Only a job that has failed can be run again, and only on a model that the service knows. Else send a new one."""

    status, slug, title = 409, "job-not-retryable", "The job cannot be run again"


class JobWasCanceled(Problem):
    """Somebody called the job off while this request waited for its pictures."""

    status, slug, title = 409, "job-was-canceled", "The job was canceled"


class WorkerCannotDrain(Problem):
    """The worker is of a release that cannot be told to drain. SIGTERM has it finish what it can, and leave."""

    status, slug, title = 409, "worker-cannot-drain", "The worker cannot be told"


class WorkerHasLeft(Problem):
    """The worker had ended before its drain was taken back. Start it again where it ran: one of `darkroom up` comes
    with the next `darkroom up`."""

    status, slug, title = 409, "worker-has-left", "The worker has left"
    usual = "It had ended before the drain was taken back. Start it again where it ran, or with the next `darkroom up`."


class InputInUse(Problem):
    """A job that is not over needs the picture. It can be deleted when its jobs are over, or have been canceled."""

    status, slug, title = 409, "input-in-use", "The input is needed"


class JobDeleted(Problem):
    """The Idempotency-Key was used before, for a job that has since been deleted. Use a new key for a new job."""

    status, slug, title = 410, "job-deleted", "The job of this key is deleted"


class BodyTooLarge(Problem):
    """The body is larger than the route takes: 64 KiB of JSON, and more where pictures come in. The detail says it."""

    status, slug, title = 413, "body-too-large", "The body is too large"


class UnsupportedMediaType(Problem):
    """Bodies are JSON in UTF-8, not compressed: `Content-Type: application/json`. A few routes take pictures or forms:
    the detail lists their types."""

    status, slug, title = 415, "unsupported-media-type", "The body is of a type that is not taken here"


class RangeNotSatisfiable(Problem):
    """The Range begins after the last byte of the picture."""

    status, slug, title = 416, "range-not-satisfiable", "The range is outside the picture"


class WrongHost(Problem):
    """The Host header names a server that this is not. The operator lists the names in DARKROOM_ALLOWED_HOSTS."""

    status, slug, title = 421, "wrong-host", "This is another host"


class OtherCell(Problem):
    """The end of the id names another cell of the service. `location` is the address of the same request there."""

    status, slug, title = 421, "other-cell", "It is in another cell"


class InvalidRequest(Problem):
    """The request was understood but asks for something that cannot be. `errors` says what, field by field: `pointer`
    is a JSON pointer into the body, `parameter` names a part of the query."""

    status, slug, title = 422, "invalid-request", "The request cannot be fulfilled as it is"


class IdempotencyKeyReused(InvalidRequest):
    """An Idempotency-Key names one request for 24 hours. A request with another body needs another key."""

    slug, title = "idempotency-key-reused", "The Idempotency-Key belongs to another request"


class PictureUnusable(InvalidRequest):
    """What was sent in is no picture that can be drawn from; `errors` says why. Taken are PNG, JPEG and WebP with one
    frame and at most 16 megapixels, whole, of the type that is said of them."""

    slug, title = "picture-unusable", "The picture cannot be used"


class RateLimited(Problem):
    """The key has used up what it may use in this minute. The `RateLimit` header says how much there is, and when."""

    status, slug, title = 429, "rate-limited", "Too much in too short a time"


class QueueFull(Problem):
    """As many jobs wait for the model as the service keeps. Retry-After is computed from the present pace."""

    status, slug, title = 429, "queue-full", "The queue is full"


class TooManyJobs(Problem):
    """You have as many unfinished jobs as one tenant may have. Wait for some to finish, or cancel some."""

    status, slug, title = 429, "too-many-jobs", "Too many of your jobs are unfinished"


class HeadTooLarge(Problem):
    """The headers are larger than 32 KiB together, or more than 100."""

    status, slug, title = 431, "head-too-large", "The headers are too large"


class InternalError(Problem):
    """An error inside the service that is not your fault. The log has it under the request id."""

    status, slug, title = 500, "internal-error", "Something broke here"


class JobFailed(Problem):
    """The job that this request waited for has failed. The detail is that of the job; trying again will not help."""

    status, slug, title = 500, "job-failed", "The job failed"


class NotServedHere(Problem):
    """A route of another service's API that this one does not have. What there is, is listed in /openapi.json."""

    status, slug, title = 501, "not-served-here", "This service cannot do that"

    def __init__(self, detail: str) -> None:
        # OpenAI's clients would ask twice more.
        super().__init__(detail, headers={"x-should-retry": "false"})


class Unavailable(Problem):
    """Something that the service needs is away for the moment. Try again after the time in Retry-After."""

    status, slug, title = 503, "unavailable", "Not available at the moment"

    def __init__(self, detail: str, *, retry_after: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class NoModelYet(Unavailable):
    """No worker has announced a model yet. Workers do so a few seconds after they start."""

    slug, title = "no-model-yet", "No model is ready yet"


class ModelAway(Unavailable):
    """No worker has served the model for longer than a restart takes. `POST /v1/jobs` still takes jobs for it."""

    slug, title = "model-away", "Nobody serves the model now"


class ModelPaused(Unavailable):
    """The operator has paused the model: its jobs are not drawn, and further ones are not taken, or not waited for. If
    it is known when the pause ends, Retry-After goes by it."""

    slug, title = "model-paused", "The model is paused"


class JobUnfinished(Unavailable):
    """The job goes on, but the request cannot wait longer for it. The same request sent again joins the same job."""

    slug, title = "job-unfinished", "The job is not finished yet"


class TooManyUploads(Unavailable):
    """So many large bodies come in at this moment that there was no room for one more. Nothing of it was kept."""

    slug, title = "too-many-uploads", "Too much comes in at the moment"


class QueueUnavailable(Unavailable):
    """The queue does not answer. What was accepted before is safe, unless `detail` says otherwise; try again soon."""

    slug, title = "queue-unavailable", "The queue does not answer"


class QueueStorageFull(QueueUnavailable):
    """The queue's memory is nearly used up; what is left is kept for jobs that are running."""

    slug, title = "queue-storage-full", "The queue has no memory left"


class PicturesUnavailable(Unavailable):
    """The picture store does not answer."""

    slug, title = "storage-unavailable", "The picture store does not answer"


class PicturesFull(PicturesUnavailable):
    """The picture store is nearly full; what is left is kept for jobs that are running."""

    slug, title = "storage-full", "The picture store is full"
