"""The five systems that tell: each records facts in its own log, and publishes what others may know.

What is recorded and what is published are two things. A fact is the system's own, and may change as the system does; a publication says of it what others
rely on. Here it is nearly the same, less what is nobody's business: who wrote a post, and the texts of bodies, which the file doesn't have either.
"""

from typing import Annotated

import happened as h

PostNo = Annotated[int, h.Tag("post")]
UserNo = Annotated[int, h.Tag("user")]


# --- posts


class PostWritten(h.Event):
    """A question, an answer to one, or a page of the wiki that explains a tag."""

    post: PostNo
    kind: str
    user: UserNo | None
    question: PostNo | None


class Posted(h.Event):
    """Published: there is such a post."""

    post: PostNo
    kind: str
    question: PostNo | None


def posted(event: PostWritten) -> Posted:
    """Tell of a post, not of its author."""
    return Posted(event.post, event.kind, event.question)


# --- votes


class VoteCast(h.Event):
    """Somebody voted on a post, in one of many ways. Nobody says who, and the time is that of the day's beginning."""

    vote: int
    post: PostNo
    kind: str


class Voted(h.Event):
    """Published: a vote counts."""

    vote: int
    post: PostNo
    kind: str


def voted(event: VoteCast) -> Voted:
    """Tell of a vote."""
    return Voted(event.vote, event.post, event.kind)


# --- comments


class CommentWritten(h.Event):
    """Somebody said something about a post."""

    comment: int
    post: PostNo
    user: UserNo | None


class Commented(h.Event):
    """Published: a post has one comment more."""

    comment: int
    post: PostNo


def commented(event: CommentWritten) -> Commented:
    """Tell of a comment, not of who wrote it."""
    return Commented(event.comment, event.post)


# --- revisions


class RevisionMade(h.Event):
    """A body, a title or the tags of a post were set or changed, or something else was done to it. `text` is the title, or the tags."""

    revision: int
    post: PostNo
    kind: str
    user: UserNo | None
    text: str | None


class Revised(h.Event):
    """Published: a post is another than before. The revision with the highest number holds."""

    revision: int
    post: PostNo
    kind: str
    text: str | None


def revised(event: RevisionMade) -> Revised:
    """Tell of a revision."""
    return Revised(event.revision, event.post, event.kind, event.text)


# --- badges


class UserCame(h.Event):
    """Somebody is on the site for the first time."""

    user: UserNo


class BadgeGiven(h.Event):
    """A user has earned a badge."""

    badge: str
    user: UserNo


class UserRegistered(h.Event):
    """Published: there is one user more."""

    user: UserNo


class BadgeAwarded(h.Event):
    """Published: a badge was earned."""

    badge: str
    user: UserNo


def user_registered(event: UserCame) -> UserRegistered:
    """Tell of a user."""
    return UserRegistered(event.user)


def badge_awarded(event: BadgeGiven) -> BadgeAwarded:
    """Tell of a badge."""
    return BadgeAwarded(event.badge, event.user)


posts = h.App("posts", records=[PostWritten], publications=[h.Publication(posted, since=0)])
votes = h.App("votes", records=[VoteCast], publications=[h.Publication(voted, since=0)])
comments = h.App("comments", records=[CommentWritten], publications=[h.Publication(commented, since=0)])
revisions = h.App("revisions", records=[RevisionMade], publications=[h.Publication(revised, since=0)])
badges = h.App(
    "badges",
    records=[UserCame, BadgeGiven],
    publications=[h.Publication(user_registered, since=0), h.Publication(badge_awarded, since=0)],
)

PRODUCERS = (posts, votes, comments, revisions, badges)
