"""What happened on the site, from a file with a JSON object in each line, also compressed by gzip; or a small sample.

The file is made from the data dump of a Stack Exchange site (CC BY-SA). Its votes carry only a date, and so stand at the beginning of that day, often before
the post that they are about; and posts that were deleted are not in it, while the votes on them are.
"""

import gzip
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, cast  # Any: fields of a row

import msgspec

GZIP_MAGIC = b"\x1f\x8b"

POSTS = ("QuestionAsked", "AnswerPosted", "WikiPostCreated")

TAGS = ("discussion", "feature-request", "support", "moderation", "design")


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the file. Which fields it has depends on its type."""

    seq: int
    at: datetime
    type: str
    post: int | None = None
    user: int | None = None
    question: int | None = None
    vote: int | None = None
    comment: int | None = None
    rev: str | None = None
    text: str | None = None
    badge: str | None = None


class BadFile(Exception):
    """The file is not what was asked for, or one of its lines can't be read. The text names file, line and reason; mend the file or give another."""


def read_rows(path: Path) -> Iterator[Row]:
    """Read the rows in the file's order, one after the other. `BadFile` for a file or a row that can't be read."""
    decode = msgspec.json.Decoder(Row).decode
    try:
        with opened(path) as file:
            for count, text in enumerate(file, start=1):
                try:
                    row = decode(text)
                except msgspec.MsgspecError as error:
                    raise BadFile(f"{path}, row {count}: {error}") from error
                yield msgspec.structs.replace(row, at=row.at.replace(tzinfo=UTC))  # the file names no zone
    except (OSError, EOFError, zlib.error) as error:
        raise BadFile(f"{path} can't be read: {error}") from error


def opened(path: Path) -> BinaryIO:
    """Open the file, whether compressed or not."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    return cast("BinaryIO", gzip.open(path, "rb")) if compressed else path.open("rb")  # cast: a GzipFile is a BinaryIO in all but name


def sample(posts: int = 150, seed: int = 1) -> Iterator[Row]:
    """Make a small site of so many posts; the same seed makes the same rows.

    It has what makes the real file a test: votes before their posts and on posts that are never heard of, titles and tags that change, a question that was
    featured and is no more, and pages of the wiki without a title.
    """
    happened = sorted(site(Random(seed), posts), key=lambda row: row["at"])
    for seq, fields in enumerate(happened, start=1):
        yield Row(seq, **fields)


def site(chance: Random, posts: int) -> Iterator[dict[str, Any]]:
    """Make all that happens to the posts of a site, post by post."""
    at = datetime(2011, 8, 17, 18, tzinfo=UTC)
    questions: list[int] = []
    votes = comments = 0
    for user in range(1, 30):
        yield {"at": at, "type": "UserRegistered", "user": user}
        yield {"at": at + timedelta(days=user), "type": "BadgeAwarded", "badge": chance.choice(("Editor", "Student")), "user": user}
    for post in range(1, posts + 1):
        at += timedelta(hours=chance.randrange(1, 24))
        user = chance.randrange(1, 30)
        there = chance.random() > 0.1  # else it was deleted, and only the votes on it are known
        kind = POSTS[0] if post < 5 or chance.random() < 0.35 else POSTS[1] if chance.random() < 0.95 else POSTS[2]
        question = chance.choice(questions) if kind == POSTS[1] and there and questions else None
        if there:
            made = {"post": post, "user": user}
            yield {"at": at, "type": kind, **made, "question": question} if question else {"at": at, "type": kind, **made}
            yield {"at": at, "type": "BodySet", **made, "rev": f"r-{post}-1"}
            yield from revisions(chance, at, kind, made)
            for _ in range(chance.randrange(4)):
                comments += 1
                later = at + timedelta(minutes=chance.randrange(5000))
                yield {"at": later, "type": "Commented", "comment": comments, "post": post, "user": chance.randrange(1, 30)}
        if there and kind == POSTS[0]:
            questions.append(post)
        votes_cast: list[str] = [*chance.choices(("UpVoted", "DownVoted", "Favorited"), (10, 2, 1), k=chance.randrange(6))]
        if question and chance.random() < 0.3 and question % 2 == 0:
            votes_cast.append("AnswerAccepted")
            questions.remove(question)  # a question accepts one answer, and here it is the last
        for vote in votes_cast if there else (*votes_cast, "DeletionVoted"):
            votes += 1
            day = (at + timedelta(days=chance.choice((0, 0, 0, 1, 5)))).replace(hour=0, minute=0)
            yield {"at": day, "type": vote, "vote": votes, "post": post}


def revisions(chance: Random, at: datetime, kind: str, made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Make the revisions of a title and of tags."""
    post = made["post"]
    if kind == POSTS[2]:
        yield {"at": at, "type": "TitleSet", **made, "rev": f"r-{post}-2", "text": ""}
    if kind != POSTS[0]:
        return
    yield {"at": at, "type": "TitleSet", **made, "rev": f"r-{post}-2", "text": f"Question {post}"}
    yield {"at": at, "type": "TagsSet", **made, "rev": f"r-{post}-3", "text": tagged(chance, featured=post == 1)}
    for number in range(chance.choice((0, 0, 1, 2))):
        later = at + timedelta(hours=1 + number)
        yield {"at": later, "type": "TitleEdited", **made, "rev": f"r-{post}-{number}-4", "text": f"Question {post}, better {number}"}
        if post > 1:
            yield {"at": later, "type": "TagsEdited", **made, "rev": f"r-{post}-{number}-5", "text": tagged(chance)}


def tagged(chance: Random, *, featured: bool = False) -> str:
    """Return some tags as the site writes them."""
    return "".join(f"<{tag}>" for tag in (*chance.sample(TAGS, chance.randrange(1, 4)), *(["featured"] if featured else [])))
